"""A generative model's part of a session: a sentence is decoded again and again while it grows."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from deployments.engines.generative import WINDOW_SAMPLES
from deployments.engines.qwen3_languages import code_of
from deployments.engines.qwen3_output import is_looping
from deployments.engines.qwen3_words import words_of
from deployments.messages import SAMPLE_RATE, AudioPiece, AudioSlice, Hypothesis, Recognition, Word
from serve_app.errors import AsrError
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.buffer import BACKLOG_SAMPLES, SAMPLES_PER_MS, Bell, Timeline
from serve_app.pipeline.live.events import LiveOptions, Partial, Redecoding
from serve_app.pipeline.live.hypotheses import Shown, prefix_of
from serve_app.pipeline.live.sentence import LiveSentence

logger = logging.getLogger(__name__)

_TOKENS_PER_SECOND = 12
"""Fast speech in a script of which a word takes many tokens."""

_SPARE_TOKENS = 16

_AHEAD_SECONDS = 1.0
"""How much audio may come at once from somebody who sends it as it is spoken."""


@dataclass(slots=True)
class _Growth:
    """How far the decoding of one sentence is. Positions are samples of the session."""

    stored: int
    """Up to here the audio lies in ``pieces``, in whole windows."""
    pieces: list[AudioPiece] = field(default_factory=list)
    steps: int = 0
    last: Hypothesis | None = None
    heard: int = 0
    """What ``last`` was decoded from ends here."""
    shown: Shown = field(default_factory=Shown)


class SentenceRedecoding:
    """Has sentences, one after the other, decoded while they grow, and emits partials.

    One decoding is under way at a time; what comes meanwhile is heard by the next one. Whole windows of a
    sentence are stored once. As the model goes on from what it wrote before, and its encoder keeps what it
    knows of a window, a step costs the same however long the session is.

    With ``two_pass``, another decoding has the last word, so a step that fails costs a partial and nothing
    else. Without it, the last step completes ``sentence.recognition``, whose text begins with what partials
    promised.
    """

    def __init__(
        self,
        graph: LiveGraph,
        options: LiveOptions,
        session_id: str,
        timeline: Timeline,
        emit: Callable[[Partial], None],
        progress: Bell,
    ) -> None:
        redecoding = options.redecoding or Redecoding()
        self._graph = graph
        self._recognition = options.recognition
        self._marks = options.text.punctuation
        self._step_samples = redecoding.step_ms * SAMPLES_PER_MS
        self._free_steps = redecoding.free_steps
        self._open_tokens = redecoding.open_tokens
        self._has_last_word = not options.two_pass
        # What is promised of a sentence that is cut must not lie behind the cut.
        self._longest = options.uncut_ms * SAMPLES_PER_MS if self._has_last_word else None
        self._session_id = session_id
        self._timeline = timeline
        self._emit = emit
        self._progress = progress
        self._sentences: deque[LiveSentence] = deque()
        self._is_late = self._ended = self._has_complained = False
        self._began: float | None = None
        """When the audio began, by the clock, had it come as it was spoken."""
        self._bell = Bell()

    @property
    def needed_from(self) -> int | None:
        """The begin of the oldest sentence whose audio may still be sent, if there is one."""
        return next((sentence.begin for sentence in self._sentences if not sentence.told), None)

    @property
    def keeps_up(self) -> bool:
        """Whether the model is near what it may hear.

        Audio that comes faster than it is spoken waits for each step, so that its sender sees sentences grow.
        Who speaks waits for none; and while a step takes longer than its audio, nobody does: the next one
        hears all that has come meanwhile.
        """
        behind = sum(self._reach(sentence) - sentence.heard for sentence in self._sentences)
        is_due = behind >= self._step_samples
        if self._is_late or not is_due:
            return True
        return not self._is_ahead and behind <= BACKLOG_SAMPLES + self._step_samples

    def add(self, sentence: LiveSentence) -> None:
        """Begin with a sentence after those before it. Tell of its changes by :meth:`changed`."""
        if self._began is None:
            self._began = time.monotonic() - sentence.begin / SAMPLE_RATE
        self._sentences.append(sentence)

    def changed(self) -> None:
        """More of a sentence is due, or it was closed."""
        self._bell.ring()

    def end(self) -> None:
        """No sentence follows."""
        self._ended = True
        self._bell.ring()

    async def run(self) -> None:
        """Work until :meth:`end` was called and all sentences are through.

        Raises:
            AsrError: why the last step of a sentence failed, without ``two_pass``.
        """
        while True:
            await self._bell.until(lambda: bool(self._sentences) or self._ended)
            if not self._sentences:
                return
            sentence = self._sentences[0]
            await self._follow(sentence)
            self._sentences.popleft()
            sentence.streamed.set()
            self._progress.ring()

    async def dropped(self) -> None:
        """Nothing is left behind: no replica keeps anything for a session that it would have to forget."""

    @property
    def _is_ahead(self) -> bool:
        """Whether more audio came than can have been spoken meanwhile."""
        if self._began is None:
            return False
        return self._timeline.end / SAMPLE_RATE > time.monotonic() - self._began + _AHEAD_SECONDS

    async def _follow(self, sentence: LiveSentence) -> None:
        """Take a sentence to its end."""
        growth = _Growth(stored=sentence.begin)
        while sentence.end is None:
            await self._bell.until(lambda: self._is_due(sentence) or sentence.end is not None)
            if sentence.end is None:
                await self._step(sentence, growth)
        if self._has_last_word:
            await self._conclude(sentence, growth)

    def _reach(self, sentence: LiveSentence) -> int:
        """How far it may be decoded now."""
        return sentence.due if self._longest is None else min(sentence.due, sentence.begin + self._longest)

    def _is_due(self, sentence: LiveSentence) -> bool:
        return self._reach(sentence) - sentence.heard >= self._step_samples

    async def _step(self, sentence: LiveSentence, growth: _Growth) -> None:
        """Decode what there is, unless the sentence ends meanwhile: what comes of it would be too late."""
        until = self._reach(sentence)
        decoding = asyncio.create_task(self._hypothesis(sentence, growth, until))
        closing = asyncio.create_task(self._bell.until(lambda: sentence.end is not None))
        late = asyncio.get_running_loop().call_later(self._step_samples / SAMPLE_RATE, self._be_late, True)
        try:
            await asyncio.wait({decoding, closing}, return_when=asyncio.FIRST_COMPLETED)
            if decoding.done():
                await self._take(sentence, growth, decoding)
                sentence.heard = until
        finally:
            late.cancel()
            decoding.cancel()
            closing.cancel()
            await asyncio.gather(decoding, closing, return_exceptions=True)
            self._be_late(False)

    async def _take(
        self, sentence: LiveSentence, growth: _Growth, decoding: asyncio.Task[Hypothesis | None]
    ) -> None:
        """Show what a step found out."""
        try:
            hypothesis = await decoding
        except AsrError as error:
            self._complain(error.message)
            return
        except Exception:
            # Whatever it is, the text of the session is worth more.
            if not self._has_complained:
                logger.exception("session %s: decoding failed", self._session_id)
            self._complain("it met a fault.")
            return
        if hypothesis is not None and growth.shown.follow(self._words(sentence, growth, hypothesis)):
            event = growth.shown.partial(sentence.index, sentence.begin, code_of(hypothesis.language))
            if event is not None:
                self._emit(event)

    async def _conclude(self, sentence: LiveSentence, growth: _Growth) -> None:
        """The last step: all of the sentence, going on from what was written of it."""
        assert sentence.end is not None
        if sentence.end == sentence.begin:
            return
        # Detection needs silence to find an end, and the last whole window may hold some of it.
        until = max(sentence.end, growth.stored)
        hypothesis = await self._hypothesis(sentence, growth, until) or growth.last
        if hypothesis is None:
            return
        growth.shown.follow(self._words(sentence, growth, hypothesis))
        words = growth.shown.words
        sentence.recognition = Recognition(words, code_of(hypothesis.language), punctuated=True)

    async def _hypothesis(self, sentence: LiveSentence, growth: _Growth, until: int) -> Hypothesis | None:
        """Decode up to ``until``; ``None`` where nothing can be made of it."""
        before = growth.last if growth.steps >= self._free_steps else None
        prefix = () if before is None else prefix_of(before, self._open_tokens)
        growth.steps += 1
        hypothesis = await self._decode(sentence, growth, until, prefix)
        if prefix and (not hypothesis.finished or is_looping(hypothesis.token_ids)):
            # It holds on to what it wrote, and that leads nowhere.
            hypothesis = await self._decode(sentence, growth, until, ())
        if is_looping(hypothesis.token_ids):
            return None
        growth.last, growth.heard = hypothesis, until
        return hypothesis

    async def _decode(
        self, sentence: LiveSentence, growth: _Growth, until: int, prefix: tuple[int, ...]
    ) -> Hypothesis:
        while growth.stored + WINDOW_SAMPLES <= until:
            window = self._timeline.cut(growth.stored, growth.stored + WINDOW_SAMPLES)
            growth.pieces.append(await self._graph.store(window))
            growth.stored += WINDOW_SAMPLES
        written = growth.heard if prefix else sentence.begin
        seconds = max(0, until - written) / SAMPLE_RATE
        return await self._graph.decode(
            AudioSlice(tuple(growth.pieces)),
            self._timeline.cut(growth.stored, until),
            self._recognition,
            prefix=prefix,
            max_tokens=round(_TOKENS_PER_SECOND * seconds) + self._open_tokens + _SPARE_TOKENS,
            session_id=self._session_id,
        )

    def _words(self, sentence: LiveSentence, growth: _Growth, hypothesis: Hypothesis) -> tuple[Word, ...]:
        words = words_of(hypothesis, (growth.heard - sentence.begin) // SAMPLES_PER_MS)
        return words if self._marks else tuple(replace(word, mark="") for word in words)

    def _be_late(self, late: bool) -> None:
        self._is_late = late
        self._progress.ring()

    def _complain(self, why: str) -> None:
        """Once a session: an outage is one line, however much is said meanwhile."""
        if not self._has_complained:
            self._has_complained = True
            logger.warning("session %s: partials are missing: %s", self._session_id, why)
