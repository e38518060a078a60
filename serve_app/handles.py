"""The graph over Serve handles: references to audio, bounded retries, errors of our own tree."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayActorError, RaySystemError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Pcm,
    PunctuationRequest,
    Recognition,
    RecognitionRequest,
    VadOptions,
    VadRequest,
    VadResult,
    VadState,
)
from serve_app.errors import Overloaded, UpstreamLost

logger = logging.getLogger("ray.serve")

_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, RaySystemError, ReplicaUnavailableError)
_ATTEMPTS = 5
_FIRST_PAUSE = 0.2


class ServeGraph:
    """Implements :class:`serve_app.pipeline.graph.Graph`.

    Inference is pure, so a call whose replica died is simply made again, on another replica or on the
    one that Serve starts in its place: a bounded number of times, with growing pauses.
    """

    def __init__(
        self,
        vad: DeploymentHandle[Any],
        paraformer: DeploymentHandle[Any],
        punctuation: DeploymentHandle[Any],
    ) -> None:
        self._vad = vad
        self._paraformer = paraformer
        self._punctuation = punctuation

    async def store(self, samples: Pcm) -> AudioPiece:
        ref = await asyncio.to_thread(ray.put, samples)
        return AudioPiece(ref, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        request = VadRequest(audio, state, final, options)
        result: VadResult = await self._call("Vad", lambda: self._vad.detect.remote(request))
        return result

    async def transcribe(self, audio: AudioSlice) -> Recognition:
        request = RecognitionRequest(audio)
        result: Recognition = await self._call(
            "Paraformer", lambda: self._paraformer.transcribe.remote(request)
        )
        return result

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        request = PunctuationRequest(words)
        result: list[str] = await self._call(
            "Punctuation", lambda: self._punctuation.punctuate.remote(request)
        )
        return result

    async def _call(self, name: str, send: Callable[[], Any]) -> Any:
        pause = _FIRST_PAUSE
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await send()
            except _LOST as error:
                logger.warning("%s: replica lost (%s), attempt %d", name, type(error).__name__, attempt)
            except BackPressureError as error:
                raise Overloaded("The server is busy; please send the request again later.", 5) from error
            except DeploymentUnavailableError as error:
                raise UpstreamLost(f"The {name} model is not available; see the server's log.") from error
            await asyncio.sleep(pause)
            pause *= 2
        raise UpstreamLost(f"The {name} model was lost {_ATTEMPTS} times while it worked on this request.")
