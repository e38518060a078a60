"""The HTTP application behind a real HTTP server, over models that hear a sentence in everything.

For tests that throw made-up requests at every route: what they show is how requests are read and answered.
"""

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from hypothesis import HealthCheck, settings

from deployments.messages import (
    AudioSlice,
    Priority,
    Recognition,
    RecognitionOptions,
    SpeechSpan,
    VadOptions,
    VadResult,
    VadState,
    Word,
)
from serve_app.http import create_app
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.settings import Settings
from tests.test_http_app import SilentGraph

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
"""Requests in all. The long run (``make fuzz``) sends 10 000 and more."""

_WORDS = ("今天", "是", "二零二六年", "hello", "world", "百分之五", "嗯")


def share(part: float) -> settings:
    """Hypothesis settings for one test that sends this part of all requests."""
    return settings(
        max_examples=max(10, int(EXAMPLES * part)),
        deadline=None,
        derandomize=EXAMPLES <= 500,
        suppress_health_check=list(HealthCheck),
    )


class TalkingGraph(SilentGraph):
    """Hears the same words in every recording."""

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        before = int(state.payload) if state else 0
        end = before + audio.num_samples // 16
        spans = (SpeechSpan(0, end),) if final and end else ()
        return VadResult(spans, None if final else 0, None if final else VadState(b"%d" % end))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        step = max(1, int(audio.seconds * 1000) // len(_WORDS))
        return Recognition(tuple(Word(text, step * i, step * (i + 1), -0.1) for i, text in enumerate(_WORDS)))

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["，" if i % 3 else "。" for i in range(len(words))]


@contextmanager
def fuzzed_server(data_dir: Path, graph: SilentGraph | None = None, **configured: Any) -> Iterator[str]:
    """Serve the application on a free port; its address."""

    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    app = create_app(Settings(data_dir=data_dir, **configured), graph or TalkingGraph(), readiness)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
