"""One task: its audio from ``run-task`` to ``finish-task``, and what is told of it."""

import asyncio
import time
from typing import Protocol

from serve_app.api.dashscope.audio import LiveAudio
from serve_app.api.dashscope.conversing import converse
from serve_app.api.dashscope.errors import TaskError
from serve_app.api.dashscope.narration import HEARTBEAT, Narration
from serve_app.api.dashscope.wire import Action, Message, Payload, Start
from serve_app.api.hotwords import HotwordsTold
from serve_app.live import LiveService
from serve_app.pipeline.live.session import LiveSession

HEARTBEAT_SECONDS = 10.0
"""A client that asked for heartbeats gets one where nothing else was told for so long."""


class Conversation(Protocol):
    """The connection, as a task sees it."""

    async def receive(self) -> bytes | Message:
        """The next audio, or the next message.

        Raises:
            TimedOut: nothing came for too long.
            TaskError: a message that cannot be read.
        """
        ...

    async def tell(self, name: str, payload: Payload) -> None:
        """Send an event of the task."""
        ...


class Task:
    """Recognizes what comes until the client says that it is all."""

    def __init__(self, conversation: Conversation, start: Start) -> None:
        """Raises :class:`serve_app.errors.UnsupportedFormat`."""
        self._talk = conversation
        self._start = start
        told = HotwordsTold(start.options)
        self._narration = Narration(speakers=start.speakers is not None, hotwords=told)
        self._audio = LiveAudio(start.format, start.sample_rate)
        self._told_at = time.monotonic()

    async def run(self, live: LiveService) -> None:
        """Tell everything from ``task-started`` to ``task-finished``.

        Raises:
            AsrError: why the task ended before its end; what had been said by then was told.
        """
        async with live.open(self._start.options) as session:
            await self._talk.tell("task-started", {})
            beating = asyncio.create_task(self._beat()) if self._start.heartbeat else None
            try:
                await converse(session, self._hear(session), self._tell(session))
            finally:
                if beating is not None:
                    beating.cancel()
                    await asyncio.gather(beating, return_exceptions=True)
        # The SDK takes a payload without anything in it for none, and never tells its user of the end.
        await self._talk.tell("task-finished", {"output": {}, "usage": self._narration.usage})

    async def _hear(self, session: LiveSession) -> None:
        while True:
            message = await self._talk.receive()
            if isinstance(message, bytes):
                for samples in self._audio.decoded(message):
                    await session.push(samples)
                continue
            if message.action is Action.RUN:
                raise TaskError(
                    "A task is under way on this connection; finish it before the next one.", message.task_id
                )
            if message.task_id != self._start.task_id:
                raise TaskError(
                    f"The task under way is {self._start.task_id!r:.60}, not this one.", message.task_id
                )
            if message.action is Action.FINISH:
                await session.push(self._audio.flush())
                await session.finish()
                return

    async def _tell(self, session: LiveSession) -> None:
        async for event in session.events():
            result = self._narration.tell(event)
            if result is not None:
                self._told_at = time.monotonic()
                await self._talk.tell("result-generated", result)

    async def _beat(self) -> None:
        while True:
            wait = self._told_at + HEARTBEAT_SECONDS - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            self._told_at = time.monotonic()
            await self._talk.tell("result-generated", HEARTBEAT)
