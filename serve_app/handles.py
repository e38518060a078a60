"""The graph over Serve handles: references to audio, and which deployment is asked for what."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    EmbeddingRequest,
    Embeddings,
    Hints,
    Hypothesis,
    LivePunctuationRequest,
    LiveVadRequest,
    Pcm,
    Priority,
    PunctuatedBlock,
    PunctuationRequest,
    Recognition,
    RecognitionOptions,
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
from serve_app.calls import LOST, States, busy, call_pure, send_hashed, unavailable, while_there
from serve_app.coalescing import Coalescer
from serve_app.models import ServedModels
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, StreamLost
from serve_app.qwen3_calls import Qwen3Calls

logger = logging.getLogger("ray.serve")

_DROP_SECONDS = 30
_VAD_ITEMS = 32
_VAD_CALLS = 16
_VAD_SPACING = 0.03
"""Seconds; a session asks every 0.2 s."""


@dataclass(frozen=True, slots=True)
class ModelHandles:
    """The deployments of models: what ``bind`` gave where the graph is built, which Serve makes
    ``DeploymentHandle`` of for the replicas that get it. ``None`` where a model is not served.

    ``recognizers``: by the id of their model. ``streaming``: ``ParaformerStreaming``. ``speakers``:
    ``SpeakerEmbedding``. ``aligner``: ``Qwen3Aligner``. ``former``: those that are there for sessions that
    began before the last change of the config; nobody else is sent to them.
    """

    vad: Any
    recognizers: Mapping[str, Any]
    punctuation: Any = None
    streaming: Any = None
    speakers: Any = None
    aligner: Any = None
    former: tuple[Any, ...] = ()


class ServeGraph:
    """Implements :class:`serve_app.pipeline.graph.LiveGraph`.

    All inference but that of streams is pure, so a call whose replica died is simply made again, on another
    replica or on the one that Serve starts in its place: a bounded number of times, with growing pauses.
    """

    def __init__(self, handles: ModelHandles, models: ServedModels, states: States | None = None) -> None:
        """``models`` tells whom to ask for which, ``states`` which deployments there still are."""
        self._states = states
        self._call = call = partial(call_pure, states=states)
        self._vad: DeploymentHandle[Any] = handles.vad
        self._recognizers: Mapping[str, DeploymentHandle[Any]] = handles.recognizers
        self._punctuation: DeploymentHandle[Any] | None = handles.punctuation
        self._speakers: DeploymentHandle[Any] | None = handles.speakers
        self._streaming: DeploymentHandle[Any] | None = handles.streaming
        self._models = models
        self._handles = handles
        self._qwen3 = {
            model.id: Qwen3Calls(model.deployment, handles.recognizers[model.id], handles.aligner, call)
            for model in models.generative
        }
        self._live_vad = Coalescer(
            self._detect_all, max_items=_VAD_ITEMS, max_calls=_VAD_CALLS, spacing=_VAD_SPACING
        )
        self._drops: set[asyncio.Task[None]] = set()

    @property
    def stages(self) -> dict[str, Any]:
        """The handle of each deployment of models, by its name."""
        optional = {
            "ParaformerStreaming": self._streaming,
            "Punctuation": self._punctuation,
            "SpeakerEmbedding": self._speakers,
            "Qwen3Aligner": self._handles.aligner,
        }
        named = {model.deployment: self._recognizers[model.id] for model in self._models}
        return {"Vad": self._vad, **named, **{name: of for name, of in optional.items() if of is not None}}

    async def store(self, samples: Pcm) -> AudioPiece:
        ref = await asyncio.to_thread(ray.put, samples)
        return AudioPiece(ref, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        request = VadRequest(audio, state, final, options)
        result: VadResult = await self._call("Vad", lambda: self._vad.detect.remote(request))
        return result

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        model = self._models.find(options.model)
        if model.is_generative:
            return await self._qwen3[model.id].transcribe(audio, options, priority)
        hints = Hints(options.hotwords, options.language, options.itn)
        recognizer, request = self._recognizers[model.id], RecognitionRequest(audio, priority, hints)
        result: Recognition = await self._call(
            model.deployment, lambda: recognizer.transcribe.remote(request)
        )
        return result

    async def decode(
        self,
        audio: AudioSlice,
        tail: Pcm,
        options: RecognitionOptions,
        *,
        prefix: Sequence[int],
        max_tokens: int,
        session_id: str,
    ) -> Hypothesis:
        model = self._models.find(options.model)
        return await self._qwen3[model.id].decode(
            audio, tail, options, prefix=prefix, max_tokens=max_tokens, session_id=session_id
        )

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        assert self._speakers is not None, "this graph was made without a speaker model"
        speakers, request = self._speakers, EmbeddingRequest(audio, tuple(windows), priority)
        result: Embeddings = await self._call("SpeakerEmbedding", lambda: speakers.embed.remote(request))
        return result

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        assert self._punctuation is not None, "this graph was made of models that set marks themselves"
        punctuation, request = self._punctuation, PunctuationRequest(words)
        result: list[str] = await self._call("Punctuation", lambda: punctuation.punctuate.remote(request))
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
        assert self._punctuation is not None, "this graph was made of models that set marks themselves"
        punctuation, request = self._punctuation, LivePunctuationRequest(words, context)
        result: PunctuatedBlock = await self._call(
            "Punctuation", lambda: punctuation.punctuate_live.remote(request)
        )
        return result

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        try:
            call = self._to_stream("step", step.stream_id, step)
            reply: StreamReply = await while_there("ParaformerStreaming", call, self._states)
        except LOST as error:
            raise StreamLost(f"replica lost ({type(error).__name__})") from error
        except BackPressureError as error:
            raise busy() from error
        except DeploymentUnavailableError as error:
            raise unavailable("ParaformerStreaming") from error
        if isinstance(reply, SessionNotFound):
            raise StreamLost(reply.reason)
        if isinstance(reply, StreamsFull):
            raise busy()
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
        """Send to the replica that holds a stream; to be awaited."""
        assert self._streaming is not None, "this graph was made of models that hear live speech themselves"
        return send_hashed(self._streaming.options(method_name=method, session_id=stream_id), argument)
