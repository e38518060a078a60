"""An application whose answers take a while, for tests of what becomes of those that are under way."""

import asyncio
import os
from typing import Any

from ray import serve
from ray.serve import Application


@serve.deployment(name="Slow", graceful_shutdown_timeout_s=30, max_ongoing_requests=100)
class Slow:
    """Answers with the number of its process."""

    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(2)
        return str(os.getpid())


def build(_args: dict[str, Any]) -> Application:
    app: Application = Slow.bind()  # type: ignore[attr-defined]  # Serve's decorator makes a deployment of it
    return app
