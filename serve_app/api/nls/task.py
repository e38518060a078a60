"""One task: its audio from the start directive to the stop, and what is told of it."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from deployments.messages import Pcm
from serve_app.api.aliyun.errors import BadWavHeader, NoSpeech
from serve_app.api.nls.errors import InvalidMessage, NlsError
from serve_app.api.nls.narration import Told, narration_of
from serve_app.api.nls.wire import Directive, Start, Verb
from serve_app.audio.announced import AnnouncedDecoder
from serve_app.errors import InvalidAudio, UnsupportedFormat
from serve_app.live import LiveService
from serve_app.pipeline.live.events import SpeechStarted
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.segments import VAD_LATENCY_MS

_PIECE = 4096
"""Bytes that are decoded at once: those of a few compressed packets can hold minutes."""

_NOTICE_MS = VAD_LATENCY_MS
"""How long after its begin speech is noticed, at the latest."""


class Conversation(Protocol):
    """The connection, as a task sees it."""

    async def receive(self) -> bytes | Directive:
        """The next audio, or the next directive that starts or stops something.

        Raises:
            IdleTimeout: nothing came for too long.
        """
        ...

    async def tell(self, start: Start, told: Told) -> None:
        """Send an event of a task."""
        ...

    async def complain(self, error: NlsError) -> None:
        """Send why a message could not be taken; everything goes on."""
        ...


class Task:
    """Recognizes what comes until the client stops, or until a recognizer's sentence has ended."""

    def __init__(self, conversation: Conversation, start: Start) -> None:
        self._talk = conversation
        self._start = start
        self._narration = narration_of(start)
        self._audio = AudioOfTask(start)
        self._has_speech = False
        self._is_broken = False

    async def run(self, live: LiveService) -> None:
        """Tell everything from ``…Started`` to ``…Completed``.

        Raises:
            AsrError: why the task ended before its end; what had been said by then was told.
        """
        async with live.open(self._start.options) as session:
            await self._talk.tell(self._start, self._narration.started)
            telling = asyncio.create_task(self._tell(session))
            hearing = asyncio.create_task(self._hear(session))
            try:
                await asyncio.wait({telling, hearing}, return_when=asyncio.FIRST_COMPLETED)
                fault = hearing.exception() if hearing.done() else None
                if fault is not None:
                    self._is_broken = True
                    await session.finish()
                await telling
                if fault is not None:
                    raise fault
            finally:
                telling.cancel()
                hearing.cancel()
                await asyncio.gather(telling, hearing, return_exceptions=True)

    async def _hear(self, session: LiveSession) -> None:
        """Take the audio up to its end, unless nobody speaks for too long."""
        feeding = asyncio.create_task(self._feed(session))
        watching = asyncio.create_task(self._watch(session))
        try:
            await asyncio.wait({feeding, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not feeding.done():
                await watching
            await feeding
        finally:
            feeding.cancel()
            watching.cancel()
            await asyncio.gather(feeding, watching, return_exceptions=True)

    async def _watch(self, session: LiveSession) -> None:
        """Raises :class:`NoSpeech` where the client set a limit and it is reached."""
        limit = self._start.max_start_silence_ms
        if limit is None:
            return
        await session.heard((limit + _NOTICE_MS) / 1000)
        if not self._has_speech:
            raise NoSpeech(f"Nobody has spoken for {limit} ms from the begin, which is max_start_silence.")

    async def _feed(self, session: LiveSession) -> None:
        while True:
            message = await self._talk.receive()
            if isinstance(message, bytes):
                for samples in self._audio.decoded(message):
                    await session.push(samples)
            elif message.verb is Verb.START:
                await self._talk.complain(
                    InvalidMessage("A task is under way on this connection; stop it first.", message.task_id)
                )
            elif self._is_of(message):
                await session.push(self._audio.flush())
                await session.finish()
                return
            else:
                await self._talk.complain(
                    InvalidMessage(
                        f"The directive is of another task than {self._start.task_id!r:.60}.", message.task_id
                    )
                )

    async def _tell(self, session: LiveSession) -> None:
        async for event in session.events():
            self._has_speech = self._has_speech or isinstance(event, SpeechStarted)
            for told in self._narration.tell(event):
                if self._narration.is_over and self._is_broken:
                    return
                await self._talk.tell(self._start, told)
            if self._narration.is_over:
                return

    def _is_of(self, directive: Directive) -> bool:
        """Some clients leave the id out when they stop."""
        is_same = directive.task_id in (None, self._start.task_id)
        return is_same and directive.service is self._start.service


class AudioOfTask:
    """Decodes a task's audio."""

    def __init__(self, start: Start) -> None:
        self._decoder = AnnouncedDecoder(start.format, start.sample_rate)
        self._head = b""

    def decoded(self, data: bytes) -> Iterator[Pcm]:
        """The samples that are ready, in pieces.

        Raises:
            BadWavHeader: of a WAV stream.
            UnsupportedFormat: of a kind that cannot be recognized live.
            InvalidAudio: other damage.
        """
        self._head = (self._head + data[:4])[:4]
        for begin in range(0, len(data), _PIECE):
            try:
                yield self._decoder.feed(data[begin : begin + _PIECE])
            except InvalidAudio as error:
                raise self._as_told(error) from error

    def flush(self) -> Pcm:
        """The last samples. Raises as :meth:`decoded`."""
        try:
            return np.asarray(self._decoder.flush())
        except InvalidAudio as error:
            raise self._as_told(error) from error

    def _as_told(self, error: InvalidAudio) -> InvalidAudio:
        is_wav = self._head == b"RIFF"
        return BadWavHeader(error.message) if is_wav and not isinstance(error, UnsupportedFormat) else error
