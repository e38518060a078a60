"""Calls of Qwen3-ASR and of its aligner."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.engines.qwen3_languages import ALIGNED
from deployments.engines.qwen3_words import aligned
from deployments.messages import (
    AlignmentRequest,
    AudioSlice,
    Hypothesis,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    SpeechRequest,
    Times,
    Word,
)
from serve_app.calls import call_pure, ended_with_caller, send_hashed
from serve_app.errors import AsrError

logger = logging.getLogger("ray.serve")


class Qwen3Calls:
    """All are pure; what nobody waits for any more gives its place in the model's batches back."""

    def __init__(
        self,
        name: str,
        asr: DeploymentHandle[Any],
        aligner: DeploymentHandle[Any] | None,
        call: Callable[[str, Callable[[], Any]], Awaitable[Any]] = call_pure,
    ) -> None:
        """``name``: of the deployment ``asr``. ``aligner``: without it, times of words are the estimates of
        ``asr``. ``call``: how a deployment is called; as :func:`serve_app.calls.call_pure`."""
        self._call = call
        self._name = name
        self._asr = asr
        self._aligner = aligner

    async def transcribe(
        self, audio: AudioSlice, options: RecognitionOptions, priority: Priority
    ) -> Recognition:
        """Recognize one segment; words have measured times where they count and can be found."""
        request = SpeechRequest(audio, None, options.language, options.context, priority=priority)
        heard: Recognition = await self._ask(self._asr.options(method_name="transcribe"), request)
        if not heard.words or not options.word_times or heard.language not in ALIGNED:
            return heard
        return replace(heard, words=await self._timed(audio, heard.words, heard.language, priority))

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
        """See :meth:`serve_app.pipeline.graph.LiveGraph.decode`."""
        request = SpeechRequest(
            audio, tail, options.language, options.context, tuple(prefix), max_tokens, Priority.LIVE
        )
        handle = self._asr.options(method_name="decode", session_id=session_id)
        result: Hypothesis = await self._ask(handle, request)
        return result

    async def _timed(
        self, audio: AudioSlice, words: tuple[Word, ...], language: str, priority: Priority
    ) -> tuple[Word, ...]:
        """The words as they are where the aligner cannot tell: the text must not be lost with it."""
        if self._aligner is None:
            return words
        request = AlignmentRequest(audio, tuple(word.text for word in words), language, priority)
        handle = self._aligner.options(method_name="align")
        try:
            times: Times = await self._call("Qwen3Aligner", lambda: ended_with_caller(handle.remote(request)))
            return aligned(words, times)
        except (AsrError, RayError, RayServeException, ValueError) as error:
            logger.warning("times of %d words are estimated: the aligner failed: %r", len(words), error)
            return words

    async def _ask(self, handle: DeploymentHandle[Any], request: Any) -> Any:
        return await self._call(self._name, lambda: ended_with_caller(send_hashed(handle, request)))
