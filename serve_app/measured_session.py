"""A live session that tells how long its client waits."""

import time
from collections import deque
from collections.abc import AsyncIterator

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.errors import AsrError
from serve_app.observability.meter import LiveMetrics
from serve_app.pipeline.finishing import Finisher
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.live.events import Finished, LiveEvent, LiveOptions, Partial, SentenceFinal
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.live import LiveSpeakers


class MeasuredSession(LiveSession):
    """Tells ``metrics`` how its client is served."""

    def __init__(
        self,
        graph: LiveGraph,
        options: LiveOptions,
        session_id: str,
        finisher: Finisher,
        speakers: LiveSpeakers | None,
        *,
        metrics: LiveMetrics,
        protocol: str,
    ) -> None:
        super().__init__(graph, options, session_id, finisher, speakers)
        self._metrics = metrics
        self._protocol = protocol
        self._samples = self._told = 0
        self._arrivals: deque[tuple[int, float]] = deque()
        """Samples that had come by then, and when that was: for audio that no final covers yet."""
        self._first_audio: float | None = None
        self._last_audio: float | None = None
        self._outcome: str | None = "abandoned"

    async def push(self, samples: Pcm) -> None:
        now = time.monotonic()
        if self._first_audio is None:
            self._first_audio = now
        self._samples += len(samples)
        self._arrivals.append((self._samples, now))
        if self._samples - self._told >= SAMPLE_RATE:
            self._tell_received()
        await super().push(samples)

    async def finish(self) -> None:
        if self._last_audio is None:
            self._last_audio = time.monotonic()
        await super().finish()

    async def events(self) -> AsyncIterator[LiveEvent]:
        first_partial = True
        try:
            async for event in super().events():
                now = time.monotonic()
                if isinstance(event, Partial) and first_partial and self._first_audio is not None:
                    first_partial = False
                    self._metrics.first_partial(self._protocol, now - self._first_audio)
                elif isinstance(event, SentenceFinal):
                    self._tell_lag(event.end, now)
                elif isinstance(event, Finished):
                    self._outcome = self._outcome and "finished"
                    if self._last_audio is not None:
                        self._metrics.final_after_end(self._protocol, now - self._last_audio)
                yield event
        except AsrError:
            self._outcome = self._outcome and "error"
            raise

    async def aclose(self) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            self._tell_received()
            self._metrics.ended(self._protocol, outcome)
        await super().aclose()

    def _tell_received(self) -> None:
        """Once for each second, since to count a packet would cost more than to receive it."""
        self._metrics.received(self._protocol, "live", (self._samples - self._told) / SAMPLE_RATE)
        self._told = self._samples

    def _tell_lag(self, end: float, now: float) -> None:
        """``end`` is that of a sentence, in seconds from the session's begin."""
        while self._arrivals and self._arrivals[0][0] < round(end * SAMPLE_RATE):
            self._arrivals.popleft()
        if self._arrivals:
            self._metrics.sentence_lag(self._protocol, now - self._arrivals[0][1])
