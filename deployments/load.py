"""What a replica has to do, and how fast it does it: what autoscaling, metrics and `asr-serve top` look at.

No Ray here: a meter can be tested by itself.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

WINDOW_SECONDS = 10.0
"""How far back :attr:`StageLoad.busy` and :attr:`StageLoad.lag_seconds` look."""

_HALF_LIFE_SECONDS = 30.0
"""Of work, after which what was learnt of a replica's speed counts half."""

_MOST_LAGS = 1000
_PERCENTILE = 0.95


@dataclass(frozen=True, slots=True)
class StageLoad:
    """What a replica has to do. Times and audio are in seconds.

    Attributes:
        waiting_items: items that no batch has taken yet.
        waiting_audio_seconds: their audio; 0 where items are text.
        running_items: items that are being worked on.
        running_audio_seconds: their audio.
        oldest_wait_seconds: how long the item that waits longest has waited.
        lag_seconds: 95th percentile of the time from the arrival of an item of a live session to its result,
            over the last :data:`WINDOW_SECONDS`; 0 without such items.
        busy: share of the last :data:`WINDOW_SECONDS` in which the model worked, 0 to 1.
        audio_per_busy_second: audio that the model works off in a second of work; 0: not known, or text.
        drain_seconds: work that waits or runs, as the time that the model needs for it at its speed so far;
            0 while its speed is not known.
    """

    waiting_items: int = 0
    waiting_audio_seconds: float = 0.0
    running_items: int = 0
    running_audio_seconds: float = 0.0
    oldest_wait_seconds: float = 0.0
    lag_seconds: float = 0.0
    busy: float = 0.0
    audio_per_busy_second: float = 0.0
    drain_seconds: float = 0.0

    @classmethod
    def of(cls, loads: Sequence["StageLoad"]) -> "StageLoad":
        """That of a replica with several queues, each of which has a thread of its own."""
        speeds = [load.audio_per_busy_second for load in loads if load.audio_per_busy_second > 0]
        return cls(
            waiting_items=sum(load.waiting_items for load in loads),
            waiting_audio_seconds=sum(load.waiting_audio_seconds for load in loads),
            running_items=sum(load.running_items for load in loads),
            running_audio_seconds=sum(load.running_audio_seconds for load in loads),
            oldest_wait_seconds=max((load.oldest_wait_seconds for load in loads), default=0.0),
            lag_seconds=max((load.lag_seconds for load in loads), default=0.0),
            busy=max((load.busy for load in loads), default=0.0),
            audio_per_busy_second=sum(speeds) / len(speeds) if speeds else 0.0,
            drain_seconds=sum(load.drain_seconds for load in loads),
        )

    def numbers(self) -> dict[str, float]:
        """All of it by name, as Serve's ``record_autoscaling_stats`` gives it to the controller."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class IngressLoad:
    """Whom an ingress replica serves, and how many it may."""

    live_sessions: int = 0
    max_live_sessions: int = 0
    files: int = 0
    max_concurrent_files: int = 0

    def numbers(self) -> dict[str, float]:
        """All of it by name, as :meth:`StageLoad.numbers`."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(eq=False, slots=True)
class Visit:
    """One item, from its arrival to its result."""

    cost: float
    audio_seconds: float
    live: bool
    since: float
    running: bool = False


class LoadMeter:
    """Follows the items of one engine. To be used from one thread, that of the event loop."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """``clock`` gives seconds."""
        self._clock = clock
        self._visits: set[Visit] = set()
        self._lags: deque[tuple[float, float]] = deque(maxlen=_MOST_LAGS)
        self._periods: deque[tuple[float, float]] = deque()
        self._workers = 0
        self._began = 0.0
        self._busy_seconds = 0.0
        self._done_cost = self._done_audio = 0.0
        self._new_cost = self._new_audio = 0.0

    @contextmanager
    def visit(self, cost: float, audio_seconds: float, *, live: bool) -> Iterator[Visit]:
        """An item is here for as long as the context lasts. ``cost`` is in any unit, the same for all."""
        visit = Visit(cost, audio_seconds, live, self._clock())
        self._visits.add(visit)
        try:
            yield visit
            self._new_cost += visit.cost
            self._new_audio += visit.audio_seconds
            if live:
                self._lags.append((self._clock(), self._clock() - visit.since))
        finally:
            self._visits.discard(visit)

    @contextmanager
    def working(self, visits: Sequence[Visit]) -> Iterator[None]:
        """The model works on ``visits``. Such contexts may overlap."""
        if not self._workers:
            self._began = self._clock()
        self._workers += 1
        for visit in visits:
            visit.running = True
        try:
            yield
        finally:
            self._workers -= 1
            if not self._workers:
                self._close(self._clock())

    def _close(self, now: float) -> None:
        """What worked since ``_began`` is a period of its own."""
        self._periods.append((self._began, now))
        kept = 0.5 ** ((now - self._began) / _HALF_LIFE_SECONDS)
        self._busy_seconds = self._busy_seconds * kept + (now - self._began)
        self._done_cost = self._done_cost * kept + self._new_cost
        self._done_audio = self._done_audio * kept + self._new_audio
        # Visits that end with this period end after it, and are counted with the next one.
        self._new_cost = self._new_audio = 0.0
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._periods and self._periods[0][1] < now - WINDOW_SECONDS:
            self._periods.popleft()
        while self._lags and self._lags[0][0] < now - WINDOW_SECONDS:
            self._lags.popleft()

    def load(self) -> StageLoad:
        """What there is to do now."""
        now = self._clock()
        if self._workers:
            # An engine that is never idle would not get to an end.
            self._close(now)
            self._began = now
        self._forget(now)
        waiting = [visit for visit in self._visits if not visit.running]
        running = [visit for visit in self._visits if visit.running]
        speed = self._per_busy_second(self._done_cost + self._new_cost)
        return StageLoad(
            waiting_items=len(waiting),
            waiting_audio_seconds=sum(visit.audio_seconds for visit in waiting),
            running_items=len(running),
            running_audio_seconds=sum(visit.audio_seconds for visit in running),
            oldest_wait_seconds=max((now - visit.since for visit in waiting), default=0.0),
            lag_seconds=_percentile([lag for _, lag in self._lags]),
            busy=min(1.0, self._busy_lately(now) / WINDOW_SECONDS),
            audio_per_busy_second=self._per_busy_second(self._done_audio + self._new_audio),
            drain_seconds=sum(visit.cost for visit in self._visits) / speed if speed > 0 else 0.0,
        )

    def _busy_lately(self, now: float) -> float:
        return sum(end - max(begin, now - WINDOW_SECONDS) for begin, end in self._periods)

    def _per_busy_second(self, done: float) -> float:
        return done / self._busy_seconds if self._busy_seconds > 0 else 0.0


def _percentile(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * _PERCENTILE))] if values else 0.0
