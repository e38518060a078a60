"""Who spoke the sentences of a session: voices are taken from their audio while they are recognized.

Text is what a session is for. So a speaker model that is lost, or slow, costs the speakers of some sentences,
not the session, and no sentence waits long for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence

from deployments.messages import SAMPLE_RATE, AudioPiece, AudioSlice, Embeddings, Priority, SpeechSpan
from serve_app.errors import AsrError
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.buffer import SAMPLES_PER_MS
from serve_app.pipeline.live.events import SpeakersMerged
from serve_app.pipeline.live.sentence import LiveSentence
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.speakers.windows import windows_of
from serve_app.pipeline.text import language_of
from serve_app.pipeline.types import Speaker, TimedWord

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 2.0
"""How long a sentence whose text is known waits for its voice."""

_PATIENCE_AFTER_LOSS_SECONDS = 0.3
"""The same after a sentence that had waited in vain: else all of an outage would be that slow."""

Voices = asyncio.Task[Embeddings | None]


class SentenceVoices:
    """Follows the speakers of one session. Sentences are asked for in their order."""

    def __init__(self, graph: LiveGraph, speakers: LiveSpeakers, session_id: str) -> None:
        self._graph = graph
        self._speakers = speakers
        self._session_id = session_id
        self._is_lost = self._has_complained = False

    def listen(self, audio: Awaitable[AudioPiece], samples: int, tasks: asyncio.TaskGroup) -> Voices:
        """Take the voices from a sentence of ``samples`` samples, as one of ``tasks``."""
        return tasks.create_task(self._listen(audio, samples))

    async def speaker(
        self, sentence: LiveSentence, voices: Voices, words: Sequence[TimedWord]
    ) -> tuple[Speaker | None, tuple[SpeakersMerged, ...]]:
        """Who spoke a sentence of these words, and which speakers turned out to be one by it.

        ``None`` where nothing was said, or too little, or the model does not answer.
        """
        if not words:
            voices.cancel()
            return None, ()
        patience = _PATIENCE_AFTER_LOSS_SECONDS if self._is_lost else _PATIENCE_SECONDS
        await asyncio.wait({voices}, timeout=patience)
        heard = voices.result() if voices.done() else None
        self._is_lost = heard is None
        if heard is None:
            voices.cancel()
            self._complain("the speaker model did not answer in time.")
            return None, ()
        begin, end = words[0].begin, words[-1].end
        return self._speakers.hear(
            heard[_spoken_windows(sentence, begin, end)],
            end - begin,
            language_of(word.text for word in words),
        )

    async def _listen(self, audio: Awaitable[AudioPiece], samples: int) -> Embeddings | None:
        piece = await audio
        windows = [_in_samples(window, samples) for window in _windows(samples)]
        try:
            return await self._graph.embed(AudioSlice((piece,)), windows, priority=Priority.LIVE)
        except AsrError as error:
            self._complain(error.message)
        except Exception:
            # Whatever it is, the text of the session is worth more.
            if not self._has_complained:
                logger.exception("session %s: taking voices failed", self._session_id)
            self._complain("it met a fault.")
        return None

    def _complain(self, why: str) -> None:
        """Once a session: an outage is one line, however much is said meanwhile."""
        if not self._has_complained:
            self._has_complained = True
            logger.warning("session %s: sentences without speakers: %s", self._session_id, why)


def _windows(samples: int) -> tuple[SpeechSpan, ...]:
    return windows_of(SpeechSpan(0, -(-samples // SAMPLES_PER_MS)))


def _in_samples(window: SpeechSpan, samples: int) -> tuple[int, int]:
    return window.begin_ms * SAMPLES_PER_MS, min(window.end_ms * SAMPLES_PER_MS, samples)


def _spoken_windows(sentence: LiveSentence, begin: float, end: float) -> list[int]:
    """Which windows lie in what was said from ``begin`` to ``end``, seconds of the session: a sentence may
    begin and end with silence. All of them if none does."""
    length = (sentence.begin if sentence.end is None else sentence.end) - sentence.begin
    windows = _windows(length)
    offset = sentence.begin / SAMPLE_RATE
    middles = [offset + (window.begin_ms + window.end_ms) / 2000 for window in windows]
    spoken = [number for number, middle in enumerate(middles) if begin <= middle <= end]
    return spoken or [*range(len(windows))]
