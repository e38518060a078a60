"""The streaming model's part of a session: one stream for each sentence, begun again when it is lost."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from deployments.messages import StreamOptions, StreamStep, Token
from serve_app.activity import note_replay
from serve_app.errors import AsrError, UpstreamLost
from serve_app.pipeline.graph import LiveGraph, StreamLost
from serve_app.pipeline.live.buffer import BACKLOG_SAMPLES, Bell, Timeline
from serve_app.pipeline.live.events import LiveOptions, Partial
from serve_app.pipeline.live.partials import partial
from serve_app.pipeline.live.sentence import LiveSentence
from serve_app.stages import current_stage

logger = logging.getLogger(__name__)

STRIDE_UNIT_SAMPLES = 960
"""One frame of the streaming model, 60 ms."""

_PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 3.0)
"""Seconds before a lost stream is begun again: long enough in all for a replica to be replaced."""

_SETTLE_SECONDS = 2.0
"""How long a step under way is waited for before its stream is dropped, when the session is abandoned."""


@dataclass(slots=True)
class _Stream:
    """One attempt at a sentence: the next step's number, and the position up to which audio was sent."""

    stream_id: str
    sent: int
    number: int = 0
    begun: bool = False
    ended: bool = False


class SentenceStreams:
    """Feeds sentences, one after the other, to the streaming model and emits partials.

    The audio of a sentence is kept by ``timeline`` until it is through here. With ``two_pass`` the stream is
    dropped at the end of the sentence, as the offline model has the last word; a stream that stays lost
    then costs the rest of the sentence's partials and nothing else. Without it, the stream's last step
    completes ``sentence.hearing``.
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
        self._graph = graph
        self._options = StreamOptions(
            options.chunk_size, options.encoder_chunk_look_back, options.decoder_chunk_look_back
        )
        self._final_steps = not options.two_pass
        self._session_id = session_id
        self._timeline = timeline
        self._emit = emit
        self._progress = progress
        self._sentences: deque[LiveSentence] = deque()
        self._lost = False
        self._ended = False
        self._bell = Bell()
        self._drops: set[asyncio.Task[None]] = set()

    @property
    def needed_from(self) -> int | None:
        """The begin of the oldest sentence whose audio may still be sent, if there is one."""
        return next((sentence.begin for sentence in self._sentences if not sentence.told), None)

    @property
    def keeps_up(self) -> bool:
        """Whether the model is near what it may hear. While a stream is lost that is not asked for: it
        will hear all that has come meanwhile in one step."""
        behind = sum(sentence.due - sentence.heard for sentence in self._sentences)
        return self._lost or behind <= BACKLOG_SAMPLES

    def add(self, sentence: LiveSentence) -> None:
        """Begin with a sentence after those before it. Tell of its changes by :meth:`changed`."""
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
            UpstreamLost: a stream stays lost whose words nothing can replace.
            AsrError: what the streaming model raised, in the same case.
        """
        while True:
            await self._bell.until(lambda: bool(self._sentences) or self._ended)
            if not self._sentences:
                return
            sentence = self._sentences[0]
            await self._work_off(sentence)
            self._lost = False
            self._sentences.popleft()
            sentence.streamed.set()
            self._progress.ring()

    async def _work_off(self, sentence: LiveSentence) -> None:
        try:
            await self._hear(sentence)
        except AsrError as error:
            if self._final_steps:
                raise
            logger.warning("session %s: no more partials in this sentence: %s", self._session_id, error)
            self._lose()
            await self._bell.until(lambda: sentence.end is not None)

    async def dropped(self) -> None:
        """Return when all streams that were left behind have been dropped."""
        while self._drops:
            await asyncio.wait(self._drops)

    async def _hear(self, sentence: LiveSentence) -> None:
        """Take a sentence to its end, in as many streams as that needs."""
        pauses = iter(_PAUSES)
        for attempt in count():
            stream = _Stream(f"{self._session_id}.{sentence.index}.{attempt}", sentence.begin)
            try:
                await self._feed(sentence, stream)
                return
            except StreamLost as error:
                logger.info("session %s: stream %s lost: %s", self._session_id, stream.stream_id, error)
                note_replay()
                current_stage().event("replay", sentence=sentence.index, attempt=attempt + 1)
            finally:
                if stream.begun and not stream.ended:
                    self._drop(stream.stream_id)
            if stream.number > 1:
                # It got further than its replay.
                pauses = iter(_PAUSES)
            sentence.hearing.restart()
            self._lose()
            if await self._over_within(sentence, next(pauses, None)):
                return

    async def _over_within(self, sentence: LiveSentence, pause: float | None) -> bool:
        """Let ``pause`` seconds pass; whether nothing more is wanted of the sentence by then."""
        if pause is None:
            raise UpstreamLost("The streaming model was lost and did not come back in time.")
        if self._final_steps:
            await asyncio.sleep(pause)
            return False
        try:
            async with asyncio.timeout(pause):
                await self._bell.until(lambda: sentence.end is not None)
        except TimeoutError:
            return False
        return True

    async def _feed(self, sentence: LiveSentence, stream: _Stream) -> None:
        while True:
            await self._bell.until(lambda: sentence.due > stream.sent or sentence.end is not None)
            if sentence.due > stream.sent and not sentence.told:
                await self._step(sentence, stream, sentence.due, final=False)
                continue
            # The last step is always one of its own: what the model makes of the sentence must not depend
            # on whether its end was known when the strides before it were sent.
            if self._final_steps and sentence.end is not None:
                await self._step(sentence, stream, max(sentence.due, sentence.end), final=True)
            return

    async def _step(self, sentence: LiveSentence, stream: _Stream, until: int, *, final: bool) -> None:
        samples = self._timeline.cut(stream.sent, until)
        if not stream.begun and not len(samples):
            return
        stream.begun = True
        tokens = await self._call(StreamStep(stream.stream_id, stream.number, samples, final, self._options))
        stream.number += 1
        stream.sent = sentence.heard = until
        stream.ended = final
        self._lost = False
        self._progress.ring()
        if sentence.hearing.add(tokens) and not final:
            event = partial(sentence.index, sentence.begin, sentence.hearing.tokens)
            if event is not None:
                self._emit(event)

    async def _call(self, step: StreamStep) -> tuple[Token, ...]:
        call = asyncio.ensure_future(self._graph.stream(step))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            # A stream that is dropped while a step of it runs may be there again afterwards.
            await asyncio.wait({call}, timeout=_SETTLE_SECONDS)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise

    def _drop(self, stream_id: str) -> None:
        drop = asyncio.create_task(self._graph.drop_stream(stream_id))
        self._drops.add(drop)
        drop.add_done_callback(self._drops.discard)

    def _lose(self) -> None:
        self._lost = True
        self._progress.ring()
