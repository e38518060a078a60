"""A live session as a stage of what its connection goes through."""

from collections.abc import AsyncIterator

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.activity import current_activity
from serve_app.errors import AsrError
from serve_app.pipeline.live.events import LiveEvent, SentenceFinal
from serve_app.pipeline.live.session import LiveSession
from serve_app.stages import stage


class FollowedSession(LiveSession):
    """Another session, as a stage: sentences and faults are told in it, packets are only counted."""

    def __init__(self, session: LiveSession, model: str, session_id: str) -> None:
        self._session = session
        self._activity = current_activity()
        self._stage = stage("session", model=model, session_id=session_id)
        self._samples = 0
        self._sentences = 0
        self._is_open = True
        if self._activity is not None:
            self._activity.model = model

    async def push(self, samples: Pcm) -> None:
        self._samples += len(samples)
        with self._stage.holding():
            await self._session.push(samples)

    async def finish(self) -> None:
        self._stage.event("end of audio")
        with self._stage.holding():
            await self._session.finish()

    async def heard(self, seconds: float) -> None:
        await self._session.heard(seconds)

    async def events(self) -> AsyncIterator[LiveEvent]:
        events = self._session.events()
        try:
            while True:
                # The session's work begins with whatever is asked of it first.
                with self._stage.holding():
                    event = await anext(events, None)
                if event is None:
                    return
                self._sentences += isinstance(event, SentenceFinal)
                yield event
        except AsrError as error:
            self._stage.fail(error)
            raise

    async def aclose(self) -> None:
        try:
            await self._session.aclose()
        finally:
            if self._is_open:
                self._is_open = False
                seconds = self._samples / SAMPLE_RATE
                if self._activity is not None:
                    self._activity.audio_seconds += seconds
                self._stage.set(audio_seconds=round(seconds, 3), sentences=self._sentences)
                self._stage.end()
