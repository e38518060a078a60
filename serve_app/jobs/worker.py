"""Brings one job from its recording to its transcripts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import BinaryIO

from deployments.messages import Priority
from serve_app.audio.decode import probe
from serve_app.errors import Internal
from serve_app.fetching import Fetcher
from serve_app.jobs.lease import Lease
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.recorder import Recorder, Tally
from serve_app.jobs.spool import Spool
from serve_app.jobs.threads import in_whole
from serve_app.pipeline.speakers.types import SpeakerOptions, Voiceprint
from serve_app.pipeline.types import Transcript
from serve_app.transcriber import Transcriber, TranscriptionOptions
from serve_app.transcription import most_spoken, speaker_channels

Enrolled = Callable[[str], Awaitable[tuple[Voiceprint, ...]]]
"""The enrolled voices of an owner."""


class Worker:
    """Keeps nothing: what it finds out is in the database, segment by segment."""

    def __init__(
        self,
        queue: JobQueue,
        spool: Spool,
        transcriber: Transcriber,
        fetcher: Fetcher,
        enrolled: Enrolled | None = None,
    ) -> None:
        """``enrolled``: where the voices are that owners have enrolled; ``None``: they have none."""
        self._queue = queue
        self._spool = spool
        self._transcriber = transcriber
        self._fetcher = fetcher
        self._enrolled = enrolled

    async def transcribe(self, lease: Lease, in_flight: int) -> float:
        """Do what earlier attempts have left to do, and return how long the recording is, each channel
        counted, in seconds. The job is not ended by this.

        Raises:
            LeaseLost: nothing of it was kept since then.
            AsrError: see :mod:`serve_app.errors`.
        """
        spec = lease.job.spec
        speakers = spec.options.speakers
        asked = replace(
            spec.options,
            priority=Priority.BACKGROUND,
            speakers=speakers and await self._knowing_enrolled(speakers, lease.job.owner),
        )
        options = self._transcriber.check(asked)
        with await self._recording(lease) as file:
            info = await asyncio.to_thread(probe, file, raw=options.raw)
            channels: list[int | None] = [options.channel]
            if by_channel := speakers is not None and speakers.by_channel:
                channels = [*range(speaker_channels(info))]
                options = replace(options, speakers=None)
            elif spec.split_channels:
                channels = [*range(1 if spec.first_channel_only else info.channels)]
            tally = Tally(lease.job.seconds_done, len(channels), info.seconds)
            done: list[tuple[str | None, Transcript]] = []
            for number, channel in enumerate(channels):
                of_channel = replace(options, channel=channel)
                done.append(await self._channel(lease, number, file, of_channel, tally, in_flight))
        if by_channel:
            language = options.language or most_spoken(done)
            whole = self._transcriber.join_channels([of for _, of in done], language)
            await in_whole(self._queue.join, lease, language, whole)
        return tally.done(0.0)

    async def _channel(
        self,
        lease: Lease,
        number: int,
        file: BinaryIO,
        options: TranscriptionOptions,
        tally: Tally,
        in_flight: int,
    ) -> tuple[str | None, Transcript]:
        known = await asyncio.to_thread(self._queue.known, lease, number)
        recorder = Recorder(self._queue, lease, number, known, tally)
        async with self._transcriber.open(file, options, recorder, in_flight) as transcription:
            recorder.follow(transcription)
            await recorder.flush()
            async with aclosing(transcription.sentences()) as sentences:
                async for sentence in sentences:
                    recorder.add(sentence)
            whole = transcription.so_far
            await recorder.finish(whole.sentences)
            return transcription.language, whole

    async def _knowing_enrolled(self, speakers: SpeakerOptions, owner: str) -> SpeakerOptions:
        if self._enrolled is None or speakers.by_channel:
            return speakers
        return speakers.also_knowing(await self._enrolled(owner))

    async def _recording(self, lease: Lease) -> BinaryIO:
        """The recording, after it was fetched if it has not been: an attempt after this one finds it."""
        job = lease.job
        if not await asyncio.to_thread(self._spool.has, job.id):
            if job.spec.url is None:
                raise Internal("The recording of this job is gone from the server's disk.")
            async with self._fetcher.fetch(job.spec.url, param="url") as fetched:
                await in_whole(self._spool.put, job.id, fetched)
        return await asyncio.to_thread(self._spool.open, job.id)
