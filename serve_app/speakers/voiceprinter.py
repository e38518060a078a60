"""From a recording of somebody to their voice."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from deployments.messages import SAMPLE_RATE, AudioSlice, Embeddings, Pcm, SpeechSpan, VadOptions
from serve_app.audio.decode import DecodeLimits, decode_blocks
from serve_app.errors import AudioTooLarge, InvalidParameter
from serve_app.pipeline.file import in_thread
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.speakers.types import SpeakerTuning, mean_voice
from serve_app.pipeline.speakers.windows import WINDOW_MS, windows_of

LEAST_SPEECH_SECONDS = 1.0
LONGEST_SECONDS = 60.0
"""Of one recording."""

_AT_ONCE = 4
_SAMPLES_PER_MS = SAMPLE_RATE // 1000
_LEAST_WINDOWS = 3
"""A second voice shows in as many windows at least; in fewer, it may be a noise."""

_LEAST_SHARE = 0.2

_DOUBT = 0.15
"""One voice varies within a minute: two parts of it may be so much less alike than two recordings are."""


@dataclass(frozen=True, slots=True)
class Voice:
    """The voice in a recording, shape ``(dimensions,)`` and of length 1, and the seconds of speech in it."""

    embedding: Embeddings
    seconds: float


def middle(voices: Sequence[Voice]) -> Voice:
    """One voice of several recordings of one person, each as heavy as it has speech."""
    seconds = [voice.seconds for voice in voices]
    embeddings = np.stack([voice.embedding for voice in voices])
    return Voice(mean_voice(embeddings, seconds), sum(seconds))


async def together(work: Iterable[Coroutine[Any, Any, Voice]]) -> list[Voice]:
    """All voices, in order; the first that cannot be made stops the others."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Voiceprinter:
    """Makes voices of recordings, a few at once; others wait."""

    def __init__(self, graph: Graph, tuning: SpeakerTuning, vad: VadOptions) -> None:
        self._graph = graph
        self._similarity = tuning.similarity
        self._vad = vad
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def voice(
        self, source: BinaryIO, *, param: str, least: float = 0.0, longest: float = LONGEST_SECONDS
    ) -> Voice:
        """The voice of the one person who speaks in a recording.

        Args:
            source: read from its begin; left open.
            param: what the recording is called on the wire, for errors.
            least: the shortest recording, in seconds.
            longest: the longest one.

        Raises:
            InvalidParameter: it is shorter or longer, nobody speaks, too little, or more than one person.
            InvalidAudio: it cannot be decoded.
            UpstreamLost: see :class:`serve_app.pipeline.graph.Graph`.
        """
        async with self._places:
            samples = await _decoded(source, param, least, longest)
            piece = await self._graph.store(samples)
            audio = AudioSlice((piece,))
            found = await self._graph.detect(audio, None, True, self._vad)
            spans = _within(found.spans, len(samples) // _SAMPLES_PER_MS)
            seconds = sum(span.end_ms - span.begin_ms for span in spans) / 1000
            if not spans:
                raise InvalidParameter("Nobody speaks in this recording.", param)
            if seconds < LEAST_SPEECH_SECONDS:
                raise InvalidParameter(
                    f"There is {seconds:.1f} s of speech in this recording; at least "
                    f"{LEAST_SPEECH_SECONDS:.0f} s is needed, and 5 s or more is better.",
                    param,
                )
            windows = [window for span in spans for window in windows_of(span)]
            embeddings = await self._graph.embed(audio, [_in_samples(window) for window in windows])
        lengths = [window.end_ms - window.begin_ms for window in windows]
        if await asyncio.to_thread(self._are_several, embeddings, lengths):
            raise InvalidParameter(
                "More than one person seems to speak in this recording; send one in which only this person "
                "does.",
                param,
            )
        return Voice(mean_voice(embeddings, lengths), seconds)

    def _are_several(self, embeddings: Embeddings, lengths: Sequence[int]) -> bool:
        """Whether the windows fall into two voices, both heard for a while, that are not one person's.

        Windows that are cut short tell too little of a voice to count.
        """
        whole = embeddings[np.array(lengths) >= WINDOW_MS]
        if len(whole) < 2 * _LEAST_WINDOWS:
            return False
        labels = fcluster(linkage(whole, "average", metric="cosine"), 2, "maxclust")
        parts = [whole[labels == label] for label in np.unique(labels)]
        least = max(_LEAST_WINDOWS, _LEAST_SHARE * len(whole))
        if len(parts) < 2 or min(map(len, parts)) < least:
            return False
        return float(mean_voice(parts[0]) @ mean_voice(parts[1])) < self._similarity - _DOUBT


async def _decoded(source: BinaryIO, param: str, least: float, longest: float) -> Pcm:
    blocks = decode_blocks(
        source,
        block_samples=int(longest) * SAMPLE_RATE,
        limits=DecodeLimits(min_seconds=least, max_seconds=longest),
    )
    try:
        async with aclosing(in_thread(blocks)) as decoded:
            return np.concatenate([block async for block in decoded])
    except AudioTooLarge as error:
        raise InvalidParameter(
            f"A recording of a voice may last {longest:g} s; this one is longer. Cut out a part in which "
            "only this person speaks.",
            param,
        ) from error


def _within(spans: Sequence[SpeechSpan], length_ms: int) -> list[SpeechSpan]:
    """Without what detection adds beyond the last sample."""
    cut = (SpeechSpan(span.begin_ms, min(span.end_ms, length_ms)) for span in spans)
    return [span for span in cut if span.begin_ms < span.end_ms]


def _in_samples(window: SpeechSpan) -> tuple[int, int]:
    return window.begin_ms * _SAMPLES_PER_MS, window.end_ms * _SAMPLES_PER_MS
