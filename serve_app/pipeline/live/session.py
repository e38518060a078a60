"""One live session: audio in at any packet size, typed events out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.errors import AsrError, Internal
from serve_app.pipeline.finishing import Finisher
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.buffer import Bell, Inbox, Timeline
from serve_app.pipeline.live.events import Finished, LiveEvent, LiveOptions
from serve_app.pipeline.live.finals import Finals
from serve_app.pipeline.live.listener import Listener
from serve_app.pipeline.live.outbox import Outbox
from serve_app.pipeline.live.redecoding import SentenceRedecoding
from serve_app.pipeline.live.streams import SentenceStreams
from serve_app.pipeline.live.voices import SentenceVoices
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.speakers.types import SpeakerTuning

logger = logging.getLogger(__name__)


class LiveSession:
    """Turns live audio into the events of :mod:`serve_app.pipeline.live.events`.

    What is told, but for how often there is a partial, does not depend on how the audio was cut into
    packets or how fast it came. What is held in memory is bounded, whatever comes: :meth:`push` waits while
    more than five seconds are unheard, while four sentences wait for their finals, or while 256 finals
    wait to be read. So events have to be read while audio is being pushed.

    Used once, by one sender and one reader. Also an asynchronous context manager, which ends in
    :meth:`aclose`.
    """

    def __init__(
        self,
        graph: LiveGraph,
        options: LiveOptions,
        session_id: str,
        finisher: Finisher | None = None,
        speakers: LiveSpeakers | None = None,
    ) -> None:
        """``session_id`` is unique among all sessions; ``finisher`` may serve several.

        ``speakers`` are those of a session that tells them apart, if they were heard before it; else it
        begins with none.
        """
        progress = Bell()
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._timeline = Timeline()
        growing = SentenceStreams if options.redecoding is None else SentenceRedecoding
        self._streams = growing(graph, options, session_id, self._timeline, self._outbox.put, progress)
        voices = None
        if options.speakers is not None:
            speakers = speakers or LiveSpeakers(options.speakers, SpeakerTuning())
            voices = SentenceVoices(graph, speakers, session_id)
        self._finals = Finals(graph, options, finisher or Finisher(), voices, self._outbox.put, progress)
        self._listener = Listener(
            graph,
            options,
            self._inbox,
            self._timeline,
            self._streams,
            self._finals,
            self._outbox,
            progress,
        )
        self._progress = progress
        self._session_id = session_id
        self._runner: asyncio.Task[None] | None = None
        self._error: AsrError | None = None

    async def push(self, samples: Pcm) -> None:
        """Take the next samples, mono int16 at 16 kHz, any number of them; waits while the session is behind.

        Raises:
            AsrError: the error that ended the session, if one did.
            RuntimeError: :meth:`finish` or :meth:`aclose` was called before.
        """
        self._start()
        if self._error is None and self._inbox.ended:
            raise RuntimeError("the session takes no more audio")
        await self._inbox.put(samples)
        if self._error is not None:
            raise self._error

    async def finish(self) -> None:
        """Say that there is no more audio. :meth:`events` ends when all of it has been worked off."""
        self._start()
        if not self._inbox.ended:
            self._inbox.end()

    async def heard(self, seconds: float) -> None:
        """Return when detection has heard that much audio: what it found in it can be read."""
        await self._progress.until(lambda: self._timeline.end >= seconds * SAMPLE_RATE)

    async def events(self) -> AsyncIterator[LiveEvent]:
        """The session's events, in order; the last one is :class:`Finished`, unless :meth:`aclose` is called.

        Raises:
            AsrError: a fault that could not be repaired; what was ready before it has been given out.
        """
        self._start()
        while (event := await self._outbox.get()) is not None:
            # A partial may still be replaced while it waits, so each one is taken only when asked for.
            self._progress.ring()
            yield event
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        """Abandon what is not finished: no task and no stream is left. May be called at any time, again."""
        self._inbox.end()
        self._outbox.close()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
        await self._streams.dropped()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _start(self) -> None:
        if self._runner is None and not self._outbox.closed:
            self._runner = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._streams.run())
                tasks.create_task(self._finals.run())
                tasks.create_task(self._listener.run(tasks))
            self._outbox.put(Finished(self._timeline.end / SAMPLE_RATE))
        except* AsrError as errors:
            self._error = _first(errors)
        except* Exception:
            logger.exception("session %s failed", self._session_id)
            self._error = self._error or Internal(
                "The server could not go on with this session; see its log."
            )
        finally:
            self._inbox.end()
            self._outbox.close()


def _first(errors: BaseExceptionGroup[AsrError]) -> AsrError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AsrError)
    return error
