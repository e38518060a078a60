"""Results in the log, for those who ask for them: ``LOG_TRANSCRIPTS=true``. Nothing else logs what was said.

Serve's own formatter puts the id of the request, which the client has as ``x-request-id``, into each line.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from deployments.messages import Pcm
from serve_app.live import LiveService
from serve_app.observability.meter import LiveMetrics
from serve_app.pipeline.file import Checkpoints
from serve_app.pipeline.graph import Graph, LiveGraph
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, SentenceFinal
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.settings import Settings
from serve_app.transcriber import Transcriber, Transcription, TranscriptionOptions

logger = logging.getLogger("ray.serve")


def transcriber_of(graph: Graph, settings: Settings, tuning: SpeakerTuning | None = None) -> Transcriber:
    """A transcriber that logs its results if the settings say so."""
    return (LoggedTranscriber if settings.log_transcripts else Transcriber)(graph, settings, tuning)


def live_service_of(
    graph: LiveGraph,
    settings: Settings,
    metrics: LiveMetrics | None = None,
    tuning: SpeakerTuning | None = None,
) -> LiveService:
    """A live service that logs its results if the settings say so."""
    kind = LoggedLiveService if settings.log_transcripts else LiveService
    return kind(graph, settings, metrics, tuning)


def _log(begin: float, end: float, text: str) -> None:
    # As a Python string, so that no text can look like another line of the log.
    logger.info("recognized %.2f s to %.2f s: %r", begin, end, text)


class LoggedTranscriber(Transcriber):
    """Logs each transcript that was brought to its end."""

    @asynccontextmanager
    async def open(
        self,
        source: BinaryIO,
        options: TranscriptionOptions | None = None,
        checkpoints: Checkpoints | None = None,
        in_flight: int | None = None,
    ) -> AsyncIterator[Transcription]:
        async with super().open(source, options, checkpoints, in_flight) as transcription:
            yield transcription
            transcript = transcription.so_far
            _log(0, transcript.duration, transcript.text)


class LoggedLiveService(LiveService):
    """Logs each sentence of its sessions."""

    def _session(self, options: LiveOptions, speakers: LiveSpeakers | None) -> LiveSession:
        return _LoggedSession(super()._session(options, speakers))


class _LoggedSession(LiveSession):
    """Another session, whose finals are logged as they are read."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session

    async def push(self, samples: Pcm) -> None:
        await self._session.push(samples)

    async def finish(self) -> None:
        await self._session.finish()

    async def heard(self, seconds: float) -> None:
        await self._session.heard(seconds)

    async def events(self) -> AsyncIterator[LiveEvent]:
        async for event in self._session.events():
            if isinstance(event, SentenceFinal):
                _log(event.begin, event.end, event.text)
            yield event

    async def aclose(self) -> None:
        await self._session.aclose()
