"""Hears a session through: audio to voice activity, block by block, and from there to sentences."""

import asyncio

from deployments.messages import SAMPLE_RATE, Pcm, VadOptions, VadResult, VadState
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.buffer import BLOCK_SAMPLES, SAMPLES_PER_MS, Bell, Inbox, Timeline
from serve_app.pipeline.live.endpointing import Endpointing, Opened
from serve_app.pipeline.live.events import LiveOptions, Quiet, SpeechEnded, SpeechStarted
from serve_app.pipeline.live.finals import Finals
from serve_app.pipeline.live.near_field import Near, NearFieldLevel
from serve_app.pipeline.live.outbox import Outbox
from serve_app.pipeline.live.redecoding import SentenceRedecoding
from serve_app.pipeline.live.sentence import LiveSentence
from serve_app.pipeline.live.streams import STRIDE_UNIT_SAMPLES, SentenceStreams
from serve_app.pipeline.segments import VAD_LATENCY_MS

_UNREAD_FINALS = 256
"""Finals that may wait to be read before the session stops listening."""

_ENDLESS_MS = 1 << 40
"""Detection ends no span for its length: where a long one is cut is decided here, by loudness."""

_EVERYBODY = Near(0, _ENDLESS_MS)

_KEPT_SAMPLES = 2 * VAD_LATENCY_MS * SAMPLES_PER_MS
"""How far back a sentence may begin of which nothing is known yet."""

_TIMELINE_SAMPLES = 180 * SAMPLE_RATE
"""Audio that is held at once before listening has to wait: three of the longest sentences."""


class Listener:
    """Takes what waits in ``inbox`` to the streams and finals, as fast as these keep up.

    All decisions are made block by block, from a block and what came before it: several blocks that share
    a call have the same effect as if each had been on time.
    """

    def __init__(
        self,
        graph: LiveGraph,
        options: LiveOptions,
        inbox: Inbox,
        timeline: Timeline,
        streams: SentenceStreams | SentenceRedecoding,
        finals: Finals,
        outbox: Outbox,
        progress: Bell,
    ) -> None:
        self._graph = graph
        self._vad = VadOptions(options.max_sentence_silence_ms, _ENDLESS_MS, options.speech_noise_threshold)
        self._streamed = options.streamed
        stride = options.chunk_size[1] * STRIDE_UNIT_SAMPLES
        # Who decodes all of a sentence each time has no strides.
        self._stride = stride if options.redecoding is None else 1
        self._inbox = inbox
        self._timeline = timeline
        self._streams = streams
        self._finals = finals
        self._outbox = outbox
        self._progress = progress
        near = options.near_field
        self._endpointing = Endpointing(options)
        self._level = None if near is None else NearFieldLevel(near, options.max_sentence_silence_ms)
        self._kept = _KEPT_SAMPLES + options.padding_ms * SAMPLES_PER_MS
        self._tells_ends = options.tell_ends
        self._quiet = None if options.quiet_ms is None else options.quiet_ms * SAMPLES_PER_MS
        self._quiet_from = 0
        self._count = 0
        self._open: LiveSentence | None = None

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Work until the audio has ended; recognition runs as ``tasks``.

        Raises:
            AsrError: what detection raised.
        """
        state: VadState | None = None
        final = False
        while not final:
            await self._progress.until(self._may_go_on)
            samples, final = await self._inbox.take()
            results = await self._graph.detect_live(samples, BLOCK_SAMPLES, state, final, self._vad)
            state = results[-1].state
            for number, result in enumerate(results):
                await self._progress.until(lambda: self._streams.keeps_up)
                block = samples[number * BLOCK_SAMPLES : (number + 1) * BLOCK_SAMPLES]
                self._hear(block, result, tasks, final=final and number == len(results) - 1)
        self._streams.end()
        self._finals.end()

    def _may_go_on(self) -> bool:
        return (
            self._streams.keeps_up
            and self._finals.keeps_up
            and self._outbox.unread_finals < _UNREAD_FINALS
            and self._timeline.end - self._needed_from() < _TIMELINE_SAMPLES
        )

    def _hear(self, block: Pcm, result: VadResult, tasks: asyncio.TaskGroup, *, final: bool) -> None:
        self._timeline.append(block)
        position_ms = self._timeline.end // SAMPLES_PER_MS
        near = _EVERYBODY if self._level is None else self._level.follow(block)
        for change in self._endpointing.advance(block, result, position_ms, near, final=final):
            if isinstance(change, Opened):
                self._begin(change.begin_ms)
            elif self._open is not None:
                self._open.end = change.end_ms * SAMPLES_PER_MS
                self._open.cause = change.cause
                self._close(self._open, tasks)
                self._open = None
        if self._open is not None:
            whole = (self._timeline.end - self._open.begin) // self._stride * self._stride
            self._open.due = self._open.begin + whole
        self._tell_quiet()
        self._streams.changed()
        self._forget()
        self._progress.ring()

    def _begin(self, begin_ms: int) -> None:
        begin = max(begin_ms * SAMPLES_PER_MS, self._timeline.begin)
        self._open = LiveSentence(self._count, begin, due=begin, heard=begin)
        self._count += 1
        self._outbox.put(SpeechStarted(self._open.index, begin / SAMPLE_RATE))
        if self._streamed:
            self._streams.add(self._open)
        else:
            self._open.streamed.set()

    def _close(self, sentence: LiveSentence, tasks: asyncio.TaskGroup) -> None:
        end = sentence.begin if sentence.end is None else sentence.end
        self._quiet_from = end
        if self._tells_ends:
            times = sentence.begin / SAMPLE_RATE, end / SAMPLE_RATE
            self._outbox.put(SpeechEnded(sentence.index, *times, sentence.cause))
        self._finals.add(sentence, self._timeline.cut(sentence.begin, end), tasks)

    def _tell_quiet(self) -> None:
        """Tell of silence once it is certain that no sentence will turn out to have begun in it."""
        if self._quiet is None or self._open is not None:
            return
        while (end := self._quiet_from + self._quiet) <= self._timeline.end - self._kept:
            self._outbox.put(Quiet(self._count, self._quiet_from / SAMPLE_RATE, end / SAMPLE_RATE))
            self._quiet_from = end

    def _forget(self) -> None:
        needed = self._needed_from()
        self._endpointing.forget_before(needed // SAMPLES_PER_MS)
        self._timeline.forget_before(needed)

    def _needed_from(self) -> int:
        """The first sample that may still be asked for."""
        needed = self._timeline.end - self._kept
        if self._open is not None:
            needed = min(needed, self._open.begin)
        streamed_from = self._streams.needed_from
        return needed if streamed_from is None else min(needed, streamed_from)
