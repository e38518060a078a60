"""What stands between requests and an engine that writes text: limits, guards, and who goes first.

No Ray here: tests use it by itself.
"""

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from deployments.batching import Priority
from deployments.engines.base import SAMPLE_RATE, Pcm, Recognition
from deployments.engines.generative import GenerativeAsrEngine, Hypothesis, SpeechPrompt
from deployments.engines.qwen3_languages import LANGUAGES, code_of
from deployments.engines.qwen3_output import is_looping
from deployments.engines.qwen3_words import words_of
from deployments.load import LoadMeter, StageLoad

logger = logging.getLogger("ray.serve")

MAX_TOKENS = 4096
"""Of one answer, whatever its audio."""

_TOKENS_PER_SECOND, _SPARE_TOKENS = 8, 32
"""What speech needs in most scripts, and what the name of a language and a pause more need."""

_SILENT_RMS = 4.0
"""Of int16: 78 dB below full scale. In what is quieter nobody is heard, but a model may write something."""

_NOTHING = Hypothesis((), (), "", None, finished=True)


@dataclass(frozen=True, slots=True)
class Speech:
    """A stretch of speech to be recognized; see :class:`deployments.messages.SpeechRequest`."""

    samples: Pcm
    language: str | None = None
    context: str = ""
    prefix: tuple[int, ...] = ()
    max_tokens: int | None = None
    priority: Priority = Priority.REQUEST

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def prompt(self) -> SpeechPrompt:
        """Raises ``ValueError`` if the model has no such language."""
        name = None if self.language is None else LANGUAGES.get(self.language)
        if self.language is not None and name is None:
            raise ValueError(f"Qwen3-ASR knows no language with the code {self.language!r}")
        limit = self.max_tokens
        if limit is None:
            limit = round(self.seconds * _TOKENS_PER_SECOND) + _SPARE_TOKENS
        room = max(1, MAX_TOKENS - len(self.prefix))
        return SpeechPrompt(self.samples, name, self.context, self.prefix, min(max(1, limit), room))


class GenerativeRecognizer:
    """Recognizes by a generative engine. A call that is canceled gives its place back at once."""

    def __init__(self, engine: GenerativeAsrEngine, slots: int) -> None:
        """``slots``: calls that the engine is given at once; of those beyond, who speaks goes first."""
        self._engine = engine
        self._gate = PriorityGate(slots)
        self._meter = LoadMeter()

    @property
    def unfinished(self) -> int:
        """Calls that hold a place in the engine, or wait for one."""
        return self._engine.unfinished + self._gate.waiting

    def load(self) -> StageLoad:
        """What waits and runs, and how fast it went so far."""
        return self._meter.load()

    async def transcribe(self, speech: Speech) -> Recognition:
        """All that was said. Times of words are guesses.

        Raises:
            ValueError: see :meth:`GenerativeAsrEngine.transcribe`.
        """
        heard = await self.decode(speech)
        if not heard.finished and not is_looping(heard.token_ids):
            heard = await self._to_the_end(speech, heard)
        if heard.language is None or not heard.text:
            return Recognition(punctuated=True)
        words = words_of(heard, round(speech.seconds * 1000))
        return Recognition(words, code_of(heard.language), punctuated=True)

    async def decode(self, speech: Speech) -> Hypothesis:
        """What the engine hears, up to ``speech.max_tokens``; nothing where all is silent."""
        prompt = speech.prompt()
        if is_silent(speech.samples):
            return _NOTHING
        live = speech.priority is Priority.LIVE
        with self._meter.visit(speech.seconds, speech.seconds, live=live) as visit:
            async with self._gate.place(speech.priority):
                with self._meter.working([visit]):
                    return await self._engine.transcribe(prompt)

    async def _to_the_end(self, speech: Speech, heard: Hypothesis) -> Hypothesis:
        """Go on: in some scripts, a word is many tokens."""
        while not heard.finished and not is_looping(heard.token_ids) and len(heard.token_ids) < MAX_TOKENS:
            prefix = heard.token_ids
            longer = await self.decode(replace(speech, prefix=prefix, max_tokens=max(64, len(prefix))))
            heard = replace(longer, log_probs=heard.log_probs + longer.log_probs[len(prefix) :])
        if not heard.finished:
            logger.warning("%d tokens of %.1f s of speech have no end", len(heard.token_ids), speech.seconds)
        return heard


def is_silent(samples: Pcm) -> bool:
    """Whether nobody can be heard in it."""
    if not len(samples):
        return True
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float32)))) < _SILENT_RMS


class PriorityGate:
    """Lets a number of callers in; those who wait go by priority, then by their turn."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._turns = count()
        self._queue: list[tuple[Priority, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """Callers who wait for a place."""
        return sum(1 for *_, turn in self._queue if not turn.done())

    @asynccontextmanager
    async def place(self, priority: Priority) -> AsyncIterator[None]:
        """Hold a place, once there is one."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: Priority) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority, next(self._turns), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        while self._queue:
            *_, turn = heapq.heappop(self._queue)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
