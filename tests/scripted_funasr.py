"""The page beside a recognizer that says what a test tells it to: for what a real one does rarely or late."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from serve_app.cli.ports import free_port
from serve_app.web.router import page_router

BYTES_PER_SECOND = 32_000


@dataclass(frozen=True, slots=True)
class Script:
    """What to say in one session.

    ``during`` are ``(seconds of audio heard, reply)`` in order; ``after_end`` answers the end message.
    With ``close``, a WebSocket code and a reason, the connection ends after the last of ``during`` (of
    ``after_end``, if there is any). Without ``after_end`` and ``close`` the end message stays unanswered.
    """

    during: tuple[tuple[float, dict[str, Any]], ...] = ()
    after_end: tuple[dict[str, Any], ...] = ()
    close: tuple[int, str] | None = None


@dataclass(slots=True)
class Heard:
    """What the page sent in one session."""

    query: dict[str, str]
    messages: list[dict[str, Any]] = field(default_factory=list)
    packets: list[bytes] = field(default_factory=list)

    @property
    def audio(self) -> bytes:
        return b"".join(self.packets)


@dataclass(slots=True)
class ScriptedServer:
    """A running server; ``url`` has no trailing slash. Set ``script`` before a session begins."""

    url: str
    script: Script = field(default_factory=Script)
    sessions: list[Heard] = field(default_factory=list)

    async def converse(self, socket: WebSocket) -> None:
        script, waiting = self.script, list(self.script.during)
        heard = Heard(dict(socket.query_params))
        self.sessions.append(heard)
        while waiting or script.after_end or script.close is None:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            if data := event.get("bytes"):
                heard.packets.append(data)
                while waiting and len(heard.audio) >= waiting[0][0] * BYTES_PER_SECOND:
                    await socket.send_json(waiting.pop(0)[1])
                continue
            heard.messages.append(json.loads(event["text"]))
            if heard.messages[-1].get("is_speaking") is False:
                for reply in (*(reply for _, reply in waiting), *script.after_end):
                    await socket.send_json(reply)
                if script.close:
                    break
                waiting.clear()
        if script.close:
            await socket.close(*script.close)


def partial(text: str, **extra: Any) -> dict[str, Any]:
    return {"mode": "2pass-online", "text": text, "wav_name": "w", "is_final": False, **extra}


def final(text: str, begin: int, end: int, **extra: Any) -> dict[str, Any]:
    times = {"start_time": begin, "end_time": end, "slice_type": 2}
    return {"mode": "2pass-offline", "text": text, "wav_name": "w", "is_final": False, **times, **extra}


TWO_SENTENCES = Script(
    during=(
        (0.6, partial("请问", start_time=300, end_time=500)),
        (1.2, partial("火车站", start_time=300, end_time=1100)),
        (1.8, final("请问火车站怎么走？", 300, 1700)),
        (2.4, partial("Hello")),
    ),
    after_end=(final("Hello, world.", 2100, 3900, is_final=True),),
)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Serve the page and a scripted recognizer beside it, on a free port, in a thread."""
    port = free_port("127.0.0.1")
    running = ScriptedServer(f"http://127.0.0.1:{port}")
    app = FastAPI()
    app.include_router(page_router())

    @app.websocket("/ws/v1/asr/funasr")
    async def recognize(socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            await running.converse(socket)

    server = uvicorn.Server(
        uvicorn.Config(app, "127.0.0.1", port, log_level="warning", ws="websockets-sansio")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the scripted server did not start"
            thread.join(0.02)
        yield running
    finally:
        server.should_exit = True
        thread.join(10)
