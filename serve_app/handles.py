"""The graph over Serve handles: references to audio, bounded retries, errors of our own tree."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    EmbeddingRequest,
    Embeddings,
    LivePunctuationRequest,
    LiveVadRequest,
    Pcm,
    Priority,
    PunctuatedBlock,
    PunctuationRequest,
    Recognition,
    RecognitionRequest,
    SessionNotFound,
    StreamReply,
    StreamsFull,
    StreamStep,
    Token,
    VadOptions,
    VadRequest,
    VadResult,
    VadState,
)
from serve_app.coalescing import Coalescer
from serve_app.errors import Overloaded, UpstreamLost
from serve_app.pipeline.graph import StreamLost

logger = logging.getLogger("ray.serve")

_LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    # Ray ends workers itself where a node runs out of memory.
    OutOfMemoryError,
    RaySystemError,
    ReplicaUnavailableError,
)
_ATTEMPTS = 5
_FIRST_PAUSE = 0.2
_DROP_SECONDS = 30
_VAD_ITEMS = 32
_VAD_CALLS = 16
_VAD_SPACING = 0.03
"""Seconds; a session asks every 0.2 s."""
_BUSY = "The server is busy; please send the request again later."
_RETRY_AFTER_SECONDS = 5


class ServeGraph:
    """Implements :class:`serve_app.pipeline.graph.LiveGraph`.

    All inference but that of streams is pure, so a call whose replica died is simply made again, on another
    replica or on the one that Serve starts in its place: a bounded number of times, with growing pauses.
    """

    def __init__(
        self,
        vad: DeploymentHandle[Any],
        paraformer: DeploymentHandle[Any],
        punctuation: DeploymentHandle[Any],
        speakers: DeploymentHandle[Any] | None = None,
        streaming: DeploymentHandle[Any] | None = None,
    ) -> None:
        """``streaming`` is the handle of ``ParaformerStreaming``; without it there are no streams.

        ``speakers`` is that of ``SpeakerEmbedding``; without it no speakers are told apart.
        """
        self._vad = vad
        self._paraformer = paraformer
        self._punctuation = punctuation
        self._speakers = speakers
        self._streaming = streaming
        self._live_vad = Coalescer(
            self._detect_all, max_items=_VAD_ITEMS, max_calls=_VAD_CALLS, spacing=_VAD_SPACING
        )
        self._drops: set[asyncio.Task[None]] = set()

    async def store(self, samples: Pcm) -> AudioPiece:
        ref = await asyncio.to_thread(ray.put, samples)
        return AudioPiece(ref, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        request = VadRequest(audio, state, final, options)
        result: VadResult = await self._call("Vad", lambda: self._vad.detect.remote(request))
        return result

    async def transcribe(self, audio: AudioSlice, *, priority: Priority = Priority.REQUEST) -> Recognition:
        request = RecognitionRequest(audio, priority)
        result: Recognition = await self._call(
            "Paraformer", lambda: self._paraformer.transcribe.remote(request)
        )
        return result

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        assert self._speakers is not None, "this graph was made without a speaker model"
        speakers, request = self._speakers, EmbeddingRequest(audio, tuple(windows), priority)
        result: Embeddings = await self._call("SpeakerEmbedding", lambda: speakers.embed.remote(request))
        return result

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        request = PunctuationRequest(words)
        result: list[str] = await self._call(
            "Punctuation", lambda: self._punctuation.punctuate.remote(request)
        )
        return result

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        # Each session asks several times a second, and a call costs more than detection itself.
        return await self._live_vad.submit(LiveVadRequest(samples, block, state, final, options))

    async def _detect_all(self, requests: Sequence[LiveVadRequest]) -> list[list[VadResult] | BaseException]:
        results: list[list[VadResult] | BaseException] = await self._call(
            "Vad", lambda: self._vad.detect_live.remote(requests)
        )
        return results

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        request = LivePunctuationRequest(words, context)
        result: PunctuatedBlock = await self._call(
            "Punctuation", lambda: self._punctuation.punctuate_live.remote(request)
        )
        return result

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        try:
            reply: StreamReply = await self._to_stream("step", step.stream_id, step)
        except _LOST as error:
            raise StreamLost(f"replica lost ({type(error).__name__})") from error
        except BackPressureError as error:
            raise Overloaded(_BUSY, _RETRY_AFTER_SECONDS) from error
        except DeploymentUnavailableError as error:
            raise UpstreamLost(_unavailable("ParaformerStreaming")) from error
        if isinstance(reply, SessionNotFound):
            raise StreamLost(reply.reason)
        if isinstance(reply, StreamsFull):
            raise Overloaded(_BUSY, _RETRY_AFTER_SECONDS)
        return reply.tokens

    async def drop_stream(self, stream_id: str) -> None:
        drop = asyncio.create_task(self._drop(stream_id))
        self._drops.add(drop)
        drop.add_done_callback(self._drops.discard)

    async def _drop(self, stream_id: str) -> None:
        try:
            async with asyncio.timeout(_DROP_SECONDS):
                await self._to_stream("drop", stream_id, stream_id)
        except (RayError, RayServeException, TimeoutError) as error:
            # It expires by itself.
            logger.debug("stream %s could not be dropped: %r", stream_id, error)

    def _to_stream(self, method: str, stream_id: str, argument: Any) -> Any:
        """Send to the replica that holds a stream; to be awaited.

        In a context of its own: there, Serve gives the call an id of its own. Else all calls that one
        client's request makes share its id, by which the consistent-hash router tells calls apart that wait
        for a replica: of two at the same time, one would get the replica of the other, or wait for ever
        (seen in Ray 2.60).
        """
        assert self._streaming is not None, "this graph was made for recordings only"
        handle = self._streaming.options(method_name=method, session_id=stream_id)
        return contextvars.Context().run(handle.remote, argument)

    async def _call(self, name: str, send: Callable[[], Any]) -> Any:
        pause = _FIRST_PAUSE
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await send()
            except _LOST as error:
                logger.warning("%s: replica lost (%s), attempt %d", name, type(error).__name__, attempt)
            except BackPressureError as error:
                raise Overloaded(_BUSY, _RETRY_AFTER_SECONDS) from error
            except DeploymentUnavailableError as error:
                raise UpstreamLost(_unavailable(name)) from error
            await asyncio.sleep(pause)
            pause *= 2
        raise UpstreamLost(f"The {name} model was lost {_ATTEMPTS} times while it worked on this request.")


def _unavailable(name: str) -> str:
    return f"The {name} model is not available; see the server's log."
