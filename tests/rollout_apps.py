"""A small Serve application of two deployments whose replicas can be told apart; Ray's workers import it."""

import os
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle


class Model:
    """Knows a word, and the process that it lives in; fails to start with ``broken``."""

    def __init__(self, word: str) -> None:
        if word == "broken":
            raise ValueError("this model cannot be loaded")
        self._word = word

    def tell(self) -> dict[str, Any]:
        return {"word": self._word, "process": os.getpid()}


class Door:
    """Answers each request with what the model tells."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    async def __call__(self, request: Any) -> dict[str, Any]:
        told: dict[str, Any] = await self._model.tell.remote()
        return told


def build(args: dict[str, str]) -> Application:
    model = serve.deployment(name="Model")(Model).bind(args["word"])
    return serve.deployment(name="Door")(Door).bind(model)
