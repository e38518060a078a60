"""Counts for Prometheus, through Ray."""

import asyncio

from deployments import metrics
from deployments.instruments import Counter, Gauge, Histogram
from deployments.load import IngressLoad
from serve_app.jobs.types import JobStatus
from serve_app.observability.meter import NoMeter, protocol_label

_SAMPLING_SECONDS = 5.0


class FileMeter(NoMeter):
    """What replicas count that transcribe files: ``Ingress`` and ``Jobs``."""

    def __init__(self, stages: list[str]) -> None:
        """``stages``: names of the deployments that are called."""
        self._received = Counter(metrics.RECEIVED_AUDIO)
        self._file_seconds = Histogram(metrics.FILE_SECONDS)
        self._file_rtf = Histogram(metrics.FILE_RTF)
        self._file_work = Counter(metrics.FILE_WORK_SECONDS)
        self._lost = Counter(metrics.LOST_CALLS)
        for stage in stages:
            self._lost.begin(stage=stage)

    def file(self, protocol: str, audio_seconds: float, seconds: float) -> None:
        label = protocol_label(protocol)
        self.received(protocol, "file", audio_seconds)
        self._file_seconds.add(seconds, protocol=label)
        self._file_work.add(seconds, protocol=label)
        if audio_seconds > 0:
            self._file_rtf.add(seconds / audio_seconds, protocol=label)

    def received(self, protocol: str, kind: str, seconds: float) -> None:
        self._received.add(seconds, protocol=protocol_label(protocol), kind=kind)

    def lost_call(self, stage: str) -> None:
        self._lost.add(stage=stage)


class ServeMeter(FileMeter):
    """Implements :class:`serve_app.observability.meter.Meter` for ``Ingress``."""

    def __init__(self, stages: list[str], limits: IngressLoad) -> None:
        super().__init__(stages)
        self._requests, self._errors = Counter(metrics.REQUESTS), Counter(metrics.ERRORS)
        self._request_seconds = Histogram(metrics.REQUEST_SECONDS)
        self._files, self._file_count = Gauge(metrics.FILES), 0
        self._sessions = Gauge(metrics.LIVE_SESSIONS)
        self._session_counts = dict.fromkeys(metrics.LIVE_PROTOCOLS, 0)
        self._limits = limits
        self._ended = Counter(metrics.LIVE_ENDED)
        self._first_partial = Histogram(metrics.LIVE_FIRST_PARTIAL)
        self._final_after_end = Histogram(metrics.LIVE_FINAL_AFTER_END)
        self._lag = Histogram(metrics.LIVE_LAG)
        self._replays = Counter(metrics.LIVE_REPLAYS)
        self._max_files, self._max_sessions = Gauge(metrics.MAX_FILES), Gauge(metrics.MAX_LIVE_SESSIONS)
        self.sample()

    def sample(self) -> None:
        """Put all that has a value of now."""
        self._max_files.put(self._limits.max_concurrent_files)
        self._max_sessions.put(self._limits.max_live_sessions)
        self._files.put(self._file_count)
        for protocol, count in self._session_counts.items():
            self._sessions.put(count, protocol=protocol)

    async def keep(self) -> None:
        """Sample until cancelled: Ray forgets what is not put again."""
        while True:
            await asyncio.sleep(_SAMPLING_SECONDS)
            self.sample()

    def request(self, protocol: str, outcome: str, seconds: float | None) -> None:
        label = protocol_label(protocol)
        self._requests.add(protocol=label, outcome=outcome)
        if seconds is not None:
            self._request_seconds.add(seconds, protocol=label)

    def error(self, protocol: str, name: str) -> None:
        self._errors.add(protocol=protocol_label(protocol), error=name)

    def files(self, change: int) -> None:
        self._file_count += change
        self._files.put(self._file_count)

    def sessions(self, protocol: str, count: int) -> None:
        label = protocol_label(protocol)
        self._session_counts[label] = count
        self._sessions.put(count, protocol=label)

    def first_partial(self, protocol: str, seconds: float) -> None:
        self._first_partial.add(seconds, protocol=protocol_label(protocol))

    def sentence_lag(self, protocol: str, seconds: float) -> None:
        self._lag.add(seconds, protocol=protocol_label(protocol))

    def final_after_end(self, protocol: str, seconds: float) -> None:
        self._final_after_end.add(seconds, protocol=protocol_label(protocol))

    def ended(self, protocol: str, outcome: str) -> None:
        self._ended.add(protocol=protocol_label(protocol), outcome=outcome)

    def replay(self, protocol: str) -> None:
        self._replays.add(protocol=protocol_label(protocol))


class JobCounts:
    """Implements :class:`serve_app.jobs.runner.JobMetrics`."""

    def __init__(self) -> None:
        self._queued, self._running = Gauge(metrics.JOBS_QUEUED), Gauge(metrics.JOBS_RUNNING)
        self._oldest = Gauge(metrics.JOBS_OLDEST)
        self._ended = Counter(metrics.JOBS_ENDED)
        self._seconds = Counter(metrics.JOB_AUDIO)
        self._webhooks = Counter(metrics.WEBHOOKS)

    def jobs(self, queued: int, running: int, oldest: float) -> None:
        self._queued.put(queued)
        self._running.put(running)
        self._oldest.put(oldest)

    def ended(self, status: JobStatus, seconds: float) -> None:
        self._ended.add(status=status.value)
        self._seconds.add(seconds)

    def webhook(self, outcome: str) -> None:
        """An attempt to tell the end of a job came to this."""
        self._webhooks.add(outcome=outcome)
