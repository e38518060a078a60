"""Small Serve applications for the tests of ``asr-serve serve``; imported by Ray's workers."""

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application


class Greeter:
    """Answers every request with what it was built with, after ``?after=`` seconds."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(float(request.query_params.get("after", 0)))
        return self._greeting


def build(args: dict[str, str]) -> Application:
    return serve.deployment(name="Greeter")(Greeter).bind(args["greeting"])


def build_broken(args: dict[str, str]) -> Application:
    raise ValueError(f"there is no {args['greeting']}")
