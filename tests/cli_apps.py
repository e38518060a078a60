"""Small Serve applications for the tests of ``asr-serve serve``; imported by Ray's workers."""

from typing import Any

from ray import serve
from ray.serve import Application


class Greeter:
    """Answers every request with what it was built with."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    async def __call__(self, request: Any) -> str:
        return self._greeting


def build(args: dict[str, str]) -> Application:
    return serve.deployment(name="Greeter")(Greeter).bind(args["greeting"])


def build_broken(args: dict[str, str]) -> Application:
    raise ValueError(f"there is no {args['greeting']}")
