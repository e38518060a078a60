"""Puts on disk what comes out of one channel of a job, while it comes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from deployments.messages import Recognition, SpeechSpan
from serve_app.jobs.lease import Known, Lease, Progress
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.threads import in_whole
from serve_app.pipeline.types import Sentence
from serve_app.transcriber import Transcription


class Tally:
    """How far a job is, over all of its channels. Seconds."""

    def __init__(self, done: float, channels: int, seconds: float | None) -> None:
        """``done`` by an earlier attempt; ``seconds``: what a header tells of the recording's length."""
        self._shown = done
        self._channels = channels
        self._seconds = seconds
        self._before = 0.0

    def done(self, in_channel: float) -> float:
        """Never less than it was: an attempt begins with what is known already."""
        self._shown = max(self._shown, self._before + in_channel)
        return self._shown

    def total(self, decoded: float) -> float | None:
        if self._seconds is None:
            return None
        return self._channels * max(self._seconds, decoded)

    def measured(self, seconds: float) -> None:
        """A channel is decoded to its end: now the length is known for certain, and all have the same."""
        self._seconds = seconds

    def end_channel(self) -> None:
        """What follows is of the next channel."""
        self._before += self._seconds or 0.0


class Recorder:
    """Implements :class:`serve_app.pipeline.file.Checkpoints` for one channel.

    A result counts as kept when it is on disk. While one transaction runs, what comes meanwhile gathers for
    the next, so a slow disk makes transactions larger and not the queue longer.
    """

    def __init__(self, queue: JobQueue, lease: Lease, channel: int, known: Known, tally: Tally) -> None:
        self._queue = queue
        self._lease = lease
        self._channel = channel
        self._known = known
        self._tally = tally
        self._transcription: Transcription | None = None
        self._recognized: dict[SpeechSpan, Recognition] = {}
        self._again = 0
        self._sentences: dict[int, Sentence] = {}
        self._count = 0
        self._kept = [*known.sentences]
        # Where speakers are known, an earlier attempt came to the end: what it left is not undone meanwhile.
        self._was_whole = any(sentence.speaker is not None for sentence in known.sentences)
        self._written: Progress | None = None
        self._writing = asyncio.Lock()
        self._fault: BaseException | None = None

    def follow(self, transcription: Transcription) -> None:
        """Tell what the results are of."""
        self._transcription = transcription

    def recognized(self, span: SpeechSpan) -> Recognition | None:
        return self._known.recognized.get(span)

    async def keep(self, span: SpeechSpan, recognition: Recognition) -> None:
        """Return when it is on disk. Raises ``LeaseLost``, and what the database raised."""
        if span in self._known.recognized:
            self._again += 1
        else:
            self._recognized[span] = recognition
        await self.flush()

    def add(self, sentence: Sentence) -> None:
        """Take the next sentence; it goes to disk with the next result."""
        if self._was_whole:
            return
        if self._kept[self._count : self._count + 1] != [sentence]:
            self._kept[self._count : self._count + 1] = [sentence]
            self._sentences[self._count] = sentence
        self._count += 1

    async def flush(self) -> None:
        """Put on disk what is there; raises as :meth:`keep`."""
        async with self._writing:
            if self._fault is not None:
                raise self._fault
            progress = self._progress()
            position = replace(progress, recognized={}, again=0, sentences={})
            if progress == position == self._written:
                return
            self._recognized, self._again, self._sentences = {}, 0, {}
            try:
                await in_whole(self._queue.save, self._lease, progress)
            except BaseException as error:
                # What others wait for was in it: they must not take it for done.
                self._fault = error
                raise
            self._written = position

    async def finish(self, sentences: Sequence[Sentence]) -> None:
        """The channel has come to its end: flush, and keep these sentences and no others.

        They differ from those that were added where speakers are told apart.
        """
        if self._transcription is not None:
            self._tally.measured(self._transcription.seconds_decoded)
        await self.flush()
        if self._kept != [*sentences]:
            await in_whole(self._queue.replace, self._lease, self._channel, sentences)
        self._tally.end_channel()

    def _progress(self) -> Progress:
        decoded = self._transcription.seconds_decoded if self._transcription else 0.0
        done = self._transcription.seconds_done if self._transcription else 0.0
        return Progress(
            channel=self._channel,
            duration=decoded,
            language=self._transcription.language if self._transcription else None,
            seconds_done=self._tally.done(done),
            seconds_total=self._tally.total(decoded),
            recognized=self._recognized,
            again=self._again,
            sentences=self._sentences,
            applied=self._transcription.applied if self._transcription else (),
        )
