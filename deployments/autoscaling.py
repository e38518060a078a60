"""How many replicas a deployment needs, by the audio that waits for it.

Serve's controller calls a policy ten times a second, with what each replica last told by
``record_autoscaling_stats`` (see :mod:`deployments.load`), and applies its own delays, factors and bounds to
what the policy wants. Only the standard library is used here: Serve sends this module to the controller by
value, and nothing of this project has to be there. docs/autoscaling.md explains how to choose the numbers.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol, TypeVar

logger = logging.getLogger("ray.serve")

Settings = TypeVar("Settings")

_STALE_SECONDS = 30.0
"""A replica whose last report is older than the newest one by this is not known to be idle."""

_SETTLE_SECONDS = 15.0
"""Lag looks back 10 s, so that replicas that have just started do not yet show in it."""

_MOST_BY_LAG = 2.0
"""Sessions move when replicas are added, which is work too: lag at most doubles them."""

_KEEPS = 0.5
"""A replica whose lag is above this share of the limit keeps its place."""

_START_SECONDS = 10.0
"""What a replica takes to start, as long as none was seen to."""

_MOST_START_SECONDS = 60.0
"""One that waits for a machine says nothing of those that do not."""

_NEWEST_SHARE = 0.3
_ROUNDING = 1e-6


class Sample(Protocol):
    """A number that a replica told, and when: seconds since 1970, by its own clock."""

    @property
    def timestamp(self) -> float: ...
    @property
    def value(self) -> float: ...


class Context(Protocol):
    """What is used here of ``ray.serve.config.AutoscalingContext``."""

    @property
    def running_replicas(self) -> Sequence[Any]: ...
    @property
    def target_num_replicas(self) -> int: ...
    @property
    def total_queued_requests(self) -> float: ...
    @property
    def raw_metrics(self) -> Mapping[str, Mapping[Any, Sequence[Sample]]] | None: ...
    @property
    def current_time(self) -> float | None: ...


@dataclass(frozen=True)
class AudioSettings:
    """``policy_kwargs`` of :class:`AudioPolicy`.

    Attributes:
        target_wait_seconds: what new work may wait for its turn, in seconds. Above 0.
        target_busy: share of the time in which a replica may work, above 0, up to 1. At 1 replicas are never
            added for being busy, only kept: right where a model that is always busy can still take more, by
            larger batches.
        max_lag_seconds: what a live session may wait for the result of a piece of its audio, as 95th
            percentile, in seconds. Above 0.
        hold_seconds: for how long replicas are kept after they were needed, in seconds. 0 or more.
        expected_speed: seconds of audio that a replica works off in a second, until one was measured.
        expected_item_seconds: seconds of audio of a request that waits in front of the replicas, until some
            were seen.
    """

    target_wait_seconds: float = 2.0
    target_busy: float = 0.8
    max_lag_seconds: float = 1.0
    hold_seconds: float = 60.0
    expected_speed: float = 20.0
    expected_item_seconds: float = 10.0


@dataclass(frozen=True)
class IngressSettings:
    """``policy_kwargs`` of :class:`IngressPolicy`.

    Attributes:
        target_share: share of ``MAX_LIVE_SESSIONS``, and of ``MAX_CONCURRENT_FILES``, up to which a replica
            is filled, above 0, up to 1.
        hold_seconds: for how long replicas are kept after they were needed, in seconds. 0 or more.
    """

    target_share: float = 0.6
    hold_seconds: float = 300.0


_SHARES = ("target_busy", "target_share")
_MAY_BE_ZERO = ("hold_seconds",)


class AudioPolicy:
    """Scales a deployment of a model by the time that what waits would take.

    Replicas needed are the largest of

    * ``busy / target_busy``, where ``busy`` is the sum of the shares of the last 10 s in which each worked;
    * where those that run do not get what waits done within ``target_wait_seconds``, ``busy`` and as many as
      do the rest in that time and the time that a replica takes to start, which is measured: one that
      has less to do than that would come too late. Work is counted in seconds of one replica's time, at the
      speed that the replicas measured; it is what waits and runs in them, and what waits in front of them;
    * for live sessions, one for each replica whose lag is above half of ``max_lag_seconds``, and one more
      for each whose lag is twice that limit;

    and never fewer than were needed at any time of the last ``hold_seconds``. The result is a number of
    replicas, not a number to add, so that replicas that still start are not asked for again.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Take :class:`AudioSettings`. Wrong ones are logged, and their defaults hold."""
        settings = _usable(AudioSettings, kwargs)
        self._target_wait = settings.target_wait_seconds
        self._target_busy = settings.target_busy
        self._max_lag = settings.max_lag_seconds
        self._speed = settings.expected_speed
        self._item_seconds = settings.expected_item_seconds
        self._item_work = 0.0
        self._hold = _Hold(settings.hold_seconds)
        self._starts = _Starts()

    def __call__(self, ctx: Context) -> tuple[int, dict[str, Any]]:
        """Replicas that are needed now, and no state of Serve's keeping."""
        now = ctx.current_time or 0.0
        reports = _Reports(ctx)
        self._starts.see(now, reports.running, ctx.target_num_replicas)
        busy = self._busy(reports)
        rest = self._work(ctx, reports) - reports.running * self._target_wait
        needed = max(
            busy / self._target_busy,
            busy + rest / (self._target_wait + self._starts.seconds),
            self._lagging(reports, settled=now - self._starts.last > _SETTLE_SECONDS),
        )
        return self._hold.most(now, _whole(needed), ctx.target_num_replicas), {}

    def _work(self, ctx: Context, reports: "_Reports") -> float:
        """Seconds of one replica's time."""
        self._speed = reports.mean("audio_per_busy_second") or self._speed
        held = items = 0.0
        for report in reports:
            waiting = report("waiting_audio_seconds") + report("running_audio_seconds")
            held += report("drain_seconds") or waiting / self._speed
            items += report("waiting_items") + report("running_items")
        if items and held:
            self._item_work = held / items
        return held + ctx.total_queued_requests * (self._item_work or self._item_seconds / self._speed)

    def _busy(self, reports: "_Reports") -> float:
        """In replicas. One of which nothing is known, as it has just started or does not answer, counts as
        one that is as busy as it should be."""
        return sum(report("busy") for report in reports) + reports.unknown * self._target_busy

    def _lagging(self, reports: "_Reports", *, settled: bool) -> float:
        """In replicas."""
        lags = [report("lag_seconds") / self._max_lag for report in reports]
        most = _MOST_BY_LAG if settled else 1.0
        needed = sum(min(max(lag, 1.0), most) for lag in lags if lag > _KEEPS)
        # Where some lag, those that do not are still needed for the sessions that they have.
        return needed + (sum(lag <= _KEEPS for lag in lags) if any(lag > 1 for lag in lags) else 0)


class IngressPolicy:
    """Scales the ingress by whom it serves: live sessions and files, each as a share of their limits."""

    def __init__(self, **kwargs: Any) -> None:
        """Take :class:`IngressSettings`. Wrong ones are logged, and their defaults hold."""
        settings = _usable(IngressSettings, kwargs)
        self._target_share = settings.target_share
        self._hold = _Hold(settings.hold_seconds)

    def __call__(self, ctx: Context) -> tuple[int, dict[str, Any]]:
        """Replicas that are needed now, and no state of Serve's keeping."""
        reports = _Reports(ctx)
        shares = max(
            sum(_share(report("live_sessions"), report("max_live_sessions")) for report in reports),
            sum(_share(report("files"), report("max_concurrent_files")) for report in reports),
        )
        needed = _whole(shares / self._target_share + reports.unknown)
        return self._hold.most(ctx.current_time or 0.0, needed, ctx.target_num_replicas), {}


POLICIES: Mapping[str, type[AudioSettings] | type[IngressSettings]] = {
    "deployments.autoscaling:AudioPolicy": AudioSettings,
    "deployments.autoscaling:IngressPolicy": IngressSettings,
}
"""Their settings, by what a config names as ``policy_function``."""


def policy_fault(autoscaling: Any) -> str | None:
    """What is wrong with the ``policy`` of an ``autoscaling_config``, as a sentence; ``None``: nothing.

    A policy that runs tells it in the controller's log only. One that is not from here is not judged.
    """
    policy = autoscaling.get("policy") if isinstance(autoscaling, Mapping) else None
    if not isinstance(policy, Mapping):
        return None
    name, kwargs = str(policy.get("policy_function")), policy.get("policy_kwargs") or {}
    settings = POLICIES.get(name)
    if settings is None:
        own = name.replace(":", ".").startswith(f"{__name__}.")
        return f"There is no policy {name}; there are {', '.join(POLICIES)}." if own else None
    faults = [fault for _, fault in _faults(settings, kwargs)]
    return f"{name}: {'; '.join(faults)}." if faults else None


def _faults(settings: type[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of settings that are wrong, and what is wrong with each."""
    known = [field.name for field in fields(settings)]
    for name, value in kwargs.items():
        if name not in known:
            yield name, f"there is no {name}, only {', '.join(known)}"
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield name, f"{name} has to be a number, not {value!r:.40}"
        elif value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            yield (
                name,
                f"{name} has to be {'0 or more' if name in _MAY_BE_ZERO else 'above 0'}, not {value:g}",
            )
        elif value > 1 and name in _SHARES:
            yield name, f"{name} has to be 1 or less, not {value:g}"


def _usable(settings: type[Settings], kwargs: Mapping[str, Any]) -> Settings:
    # An error here would come up in every round of Serve's controller, which then does nothing else any more,
    # for no deployment.
    faults = dict(_faults(settings, kwargs))
    for fault in faults.values():
        logger.error("autoscaling: %s; the default holds", fault)
    return settings(**{name: value for name, value in kwargs.items() if name not in faults})


class _Reports:
    """What each running replica told last, where that is of late."""

    def __init__(self, ctx: Context) -> None:
        self._metrics = ctx.raw_metrics or {}
        self.running = len(ctx.running_replicas)
        marks = next(iter(self._metrics.values()), {})
        told = {
            replica: marks[replica][-1].timestamp for replica in ctx.running_replicas if marks.get(replica)
        }
        newest = max(told.values(), default=0.0)
        self._replicas = [replica for replica, when in told.items() if newest - when <= _STALE_SECONDS]

    @property
    def unknown(self) -> int:
        return self.running - len(self._replicas)

    def __iter__(self) -> Iterator[Callable[[str], float]]:
        for replica in self._replicas:
            yield partial(self._last, replica)

    def mean(self, name: str) -> float:
        """Of the replicas that have such a number; 0: none has."""
        values = [value for report in self if (value := report(name)) > 0]
        return sum(values) / len(values) if values else 0.0

    def _last(self, replica: Any, name: str) -> float:
        samples = self._metrics.get(name, {}).get(replica)
        value = samples[-1].value if samples else 0.0
        return value if math.isfinite(value) else 0.0


class _Starts:
    """How long replicas take to start: ``seconds``; and when one did for the ``last`` time."""

    def __init__(self) -> None:
        self.seconds = _START_SECONDS
        self.last = -math.inf
        self._running = self._target = 0
        self._asked: dict[int, float] = {}

    def see(self, now: float, running: int, target: int) -> None:
        """What there is and what is wanted: the fifth replica is asked for once five are wanted, and has
        started once five run."""
        for place in range(max(self._target, running) + 1, target + 1):
            self._asked[place] = now
        for place in range(self._running + 1, running + 1):
            self.last = now
            if (asked := self._asked.get(place)) is not None:
                took = min(now - asked, _MOST_START_SECONDS)
                self.seconds += _NEWEST_SHARE * (took - self.seconds)
        self._asked = {place: when for place, when in self._asked.items() if running < place <= target}
        self._running, self._target = running, target


class _Hold:
    """The most of the numbers of the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._numbers: deque[tuple[float, int]] = deque()
        self._began = False

    def most(self, now: float, number: int, before: int) -> int:
        """``before`` counts as the number that was needed when this is asked for the first time: a
        controller that begins to watch knows nothing of what was."""
        if not self._began:
            self._began = True
            self._add(now, before)
        self._add(now, number)
        while self._numbers[0][0] < now - self._seconds:
            self._numbers.popleft()
        return self._numbers[0][1]

    def _add(self, now: float, number: int) -> None:
        # Of no use any more are those that are not above a later one.
        while self._numbers and self._numbers[-1][1] <= number:
            self._numbers.pop()
        self._numbers.append((now, number))


def _share(number: float, limit: float) -> float:
    return number / limit if limit > 0 else 0.0


def _whole(number: float) -> int:
    return math.ceil(number - _ROUNDING)
