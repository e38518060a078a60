"""A Serve application that does nothing but answer: what is measured with it is the way to it."""

from typing import Any

from fastapi import FastAPI, WebSocket
from ray import serve
from ray.serve import Application


def echo_app() -> FastAPI:
    """Sends back every binary message that comes over a WebSocket."""
    app = FastAPI()

    @app.get("/readyz")
    @app.get("/-/healthz")  # Serve's proxy has this one by itself; uvicorn has not
    async def readyz() -> str:
        return "ready"

    @app.websocket("/{path:path}")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for message in socket.iter_bytes():
            await socket.send_bytes(message)

    return app


class Echo:
    """The replica; its application is built in it."""

    def __serve_build_asgi_app__(self) -> Any:
        return echo_app()


def build(args: dict[str, Any]) -> Application:
    """For the Serve config that :mod:`benchmarks.edge` writes."""
    ingress = serve.ingress()(Echo)
    deployment: Any = serve.deployment(name="Ingress", max_ongoing_requests=600)(ingress)
    application: Application = deployment.bind()
    return application
