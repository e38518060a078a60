"""What tests of the edge stand between: small Serve nodes behind it, and raw connections in front."""

import asyncio
import base64
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from serve_app.cli.ports import free_port
from serve_app.edge.settings import Address, EdgeSettings
from serve_app.edge.supervisor import Edge

HOST = "127.0.0.1"
PATIENCE = 15.0
LARGEST_FRAME = 80 << 20


class Node:
    """An ordinary server: it tells what reached it, and echoes what comes over a WebSocket."""

    def __init__(self, name: str = "node") -> None:
        self.name = name
        self.healthy = True
        self.requests: list[str] = []
        self.abandoned = threading.Event()
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self.app.get("/-/healthz")(self.health)
        self.app.get("/slow")(self.slow)
        self.app.get("/wait")(self.wait)
        self.app.api_route("/{path:path}", methods=["GET", "POST", "PUT"])(self.tell)
        self.app.websocket("/{path:path}")(self.echo)
        self._listening = socket.create_server((HOST, 0))
        self.address = Address(*self._listening.getsockname()[:2])
        # Headers are told as they come: what the edge makes of them is tested, not what uvicorn does.
        config = uvicorn.Config(
            self.app,
            log_level="error",
            lifespan="off",
            # Unlike httptools, it knows nothing of whole URLs in a request line.
            http="h11",
            ws="websockets-sansio",
            ws_max_size=LARGEST_FRAME,
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()
        self._listening.close()

    async def health(self) -> JSONResponse:
        return JSONResponse("success", 200 if self.healthy else 503)

    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    async def wait(self, request: Request) -> str:
        """Wait until the client goes."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.abandoned.set()
        return "too late"

    async def tell(self, request: Request) -> dict[str, Any]:
        body = await request.body()
        self.requests.append(f"{request.method} {request.url.path}")
        return {
            "node": self.name,
            "method": request.method,
            "target": request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode(),
            "headers": _by_name(request.headers.items()),
            "size": len(body),
        }

    async def echo(self, socket: WebSocket) -> None:
        offered = socket.scope["subprotocols"]
        await socket.accept(offered[0] if offered else None)
        target = f"{socket.url.path}?{socket.url.query}"
        await socket.send_json({"target": target, "headers": _by_name(socket.headers.items())})
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_text(str(len(message["bytes"])))
        except WebSocketDisconnect:
            pass


def _by_name(items: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in items:
        found.setdefault(name, []).append(value)
    return found


@contextmanager
def running_node(name: str = "node") -> Iterator[Node]:
    node = Node(name)
    try:
        yield node
    finally:
        node.stop()


class Front:
    """An edge that runs, with its addresses and what it reported."""

    def __init__(self, edge: Edge, reports: list[str]) -> None:
        self.edge = edge
        self.reports = reports
        settings = edge.settings
        self.http = f"http://{HOST}:{settings.port}"
        self.https = f"https://{HOST}:{settings.https_port}"
        self.ws = f"ws://{HOST}:{settings.port}"
        self.funasr_port = settings.funasr_port
        self.metrics = f"http://{settings.metrics}"

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        return httpx.get(self.http + path, trust_env=False, timeout=PATIENCE, **options)

    def post(self, path: str = "/", **options: Any) -> httpx.Response:
        return httpx.post(self.http + path, trust_env=False, timeout=PATIENCE, **options)


def edge_settings(data_dir: Path, *nodes: Address, **values: Any) -> EdgeSettings:
    """Settings with ports that are free now; 0 for one that is not wanted."""
    chosen = {
        "port": free_port(HOST),
        "funasr_port": free_port(HOST),
        "metrics": Address(HOST, free_port(HOST)),
        "backends": nodes,
        "data_dir": data_dir,
        **values,
    }
    return EdgeSettings(**chosen)


@contextmanager
def running_edge(data_dir: Path, *nodes: Node | Address, **values: Any) -> Iterator[Front]:
    addresses = [node.address if isinstance(node, Node) else node for node in nodes]
    reports: list[str] = []
    edge = Edge(edge_settings(data_dir, *addresses, **values), access_log=False, report=reports.append)
    try:
        edge.start()
        yield Front(edge, reports)
    finally:
        edge.stop()


def trusting() -> ssl.SSLContext:
    """As clients with a self-signed server have it: no verification."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def eventually(holds: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return holds()


def raw(port: int, request: bytes, *, until: bytes | None = None) -> bytes:
    """Send bytes and return the answer: up to ``until``, else up to the end of the connection."""
    with socket.create_connection((HOST, port), PATIENCE) as connection:
        connection.sendall(request)
        return read(connection, until)


def read(connection: socket.socket, until: bytes | None = None) -> bytes:
    answer = b""
    while until is None or until not in answer:
        received = connection.recv(65_536)
        if not received:
            break
        answer += received
    return answer


def accept_hash(key: str) -> str:
    """RFC 6455, section 4.2.2."""
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return base64.b64encode(digest).decode()
