"""A deployment in simulated time: replicas that start, batch and end, a router, and Serve's own autoscaling.

The number of replicas is decided by Ray's code, not by a copy of it: reports of replicas and handles go into
its ``DeploymentAutoscalingState``, which aggregates them, calls the policy that the config names (ours or
its own), and applies delays, factors and bounds. Only its clock is replaced. What replicas report comes from
:class:`deployments.load.LoadMeter`, as in the service.
"""

import heapq
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import (
    RUNNING_REQUESTS_KEY,
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
    TimeStampedValue,
)
from ray.serve._private.config import DeploymentConfig, ReplicaConfig
from ray.serve._private.deployment_info import DeploymentInfo

from deployments.load import LoadMeter, Visit

_DEPLOYMENT = DeploymentID("Simulated", "autoscaling")
_EPOCH = 1_000_000.0
_TICK_SECONDS = 0.5
"""Serve's controller looks every 0.1 s, but gets new numbers once a second at most."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a replica can do. ``speed``: seconds of audio in a second of work. ``overhead``: seconds that each
    batch costs besides. ``max_batch``: seconds of audio in a batch. ``start_seconds``: from the decision to
    the first request. ``max_ongoing``: requests that a replica holds, running and waiting."""

    speed: float = 30.0
    overhead: float = 0.05
    max_batch: float = 60.0
    start_seconds: float = 15.0
    max_ongoing: int = 32


@dataclass(eq=False, slots=True)
class Item:
    """A piece of audio that is recognized at once. ``done`` is called at its end."""

    audio_seconds: float
    arrived: float
    live: bool = False
    stream: int = 0
    began: float = -1.0
    ended: float = -1.0
    done: "Callable[[Item], None]" = field(default=lambda item: None)


class Events:
    """What happens next. Simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, happen: Callable[[], None]) -> None:
        """``happen`` at ``when``, or now if that is past."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), happen))

    def run(self, until: Callable[[], bool]) -> None:
        """All of it, in its order, until there is nothing left or ``until`` says that it is enough."""
        while self._events and not until():
            self.now, _, happen = heapq.heappop(self._events)
            happen()


class Replica:
    """Batches as :class:`deployments.batching.BatchQueue` does: what waits while a batch runs is the next."""

    def __init__(
        self, number: int, machine: Machine, events: Events, free: Callable[["Replica"], None]
    ) -> None:
        self.id = ReplicaID(f"{number:06d}", _DEPLOYMENT)
        self.created = events.now
        self.stopped: float | None = None
        self.running = self.draining = False
        self.meter = LoadMeter(lambda: events.now)
        self.series: dict[str, deque[TimeStampedValue]] = {}
        self._machine, self._events, self._free = machine, events, free
        self._waiting: deque[tuple[Item, AbstractContextManager[Visit], Visit]] = deque()
        self._working = False
        self.ongoing = 0

    def take(self, item: Item) -> None:
        """Put an item behind those that wait."""
        self.ongoing += 1
        context = self.meter.visit(item.audio_seconds, item.audio_seconds, live=item.live)
        self._waiting.append((item, context, context.__enter__()))
        if not self._working:
            self._work()

    def _work(self) -> None:
        batch: list[tuple[Item, AbstractContextManager[Visit], Visit]] = []
        cost = 0.0
        while self._waiting:
            audio = self._waiting[0][0].audio_seconds
            if batch and cost + audio > self._machine.max_batch:
                break
            batch.append(self._waiting.popleft())
            cost += audio
        if not batch:
            return
        self._working = True
        for item, _, _ in batch:
            item.began = self._events.now
        work = self.meter.working([visit for _, _, visit in batch])
        work.__enter__()

        def end() -> None:
            work.__exit__(None, None, None)
            self._working = False
            for item, context, _ in batch:
                context.__exit__(None, None, None)
                self.ongoing -= 1
                item.ended = self._events.now
                item.done(item)
            self._work()
            self._free(self)

        self._events.at(self._events.now + self._machine.overhead + cost / self._machine.speed, end)


class Fleet:
    """A deployment, its handle and its autoscaling. ``autoscaling`` is as in a Serve config; an ``int`` is a
    number of replicas that stays."""

    def __init__(
        self,
        events: Events,
        machine: Machine,
        autoscaling: Mapping[str, Any] | int,
        seed: int = 1,
        *,
        hashed: bool = False,
    ) -> None:
        """``hashed``: items of a stream go to the same replica for as long as there are as many."""
        self.replicas: list[Replica] = []
        self.ended: list[Replica] = []
        self.counts: list[tuple[float, int, int]] = []
        """Seconds, replicas that run, and those that are wanted."""
        self.queue: deque[Item] = deque()
        self._events, self._machine, self._hashed = events, machine, hashed
        self._chance = random.Random(seed)
        self._numbers = itertools.count()
        self._state: DeploymentAutoscalingState | None = None
        self._queued: deque[TimeStampedValue] = deque(maxlen=5)
        self._sent: dict[Replica, deque[TimeStampedValue]] = {}
        self._ring: list[Replica] = []
        self._homes: dict[int, Replica] = {}
        self._target = autoscaling if isinstance(autoscaling, int) else 1
        if not isinstance(autoscaling, int):
            config = DeploymentConfig(autoscaling_config={**autoscaling})
            info = DeploymentInfo(
                config, ReplicaConfig.create(object), start_time_ms=0, deployer_job_id="none"
            )
            self._state = DeploymentAutoscalingState(_DEPLOYMENT)
            self._target = self._state.register(info, 1)
            scaling = config.autoscaling_config
            assert scaling is not None, "it was just given"
            self._own = not scaling.policy.is_default_policy_function()
            interval = min(scaling.look_back_period_s / 5, scaling.metrics_interval_s)
            self._every(interval, self._record)
            self._every(scaling.metrics_interval_s, self._report)
            self._every(_TICK_SECONDS, self._decide)
        for _ in range(self._target):
            self._add().running = True
        self._count()

    def submit(self, item: Item) -> None:
        """What a client asks for now."""
        self.queue.append(item)
        self._route()

    def replica_seconds(self) -> float:
        """What was paid for, replicas that start or end included."""
        now = self._events.now
        return sum((replica.stopped or now) - replica.created for replica in [*self.replicas, *self.ended])

    def _every(self, seconds: float, happen: Callable[[], None]) -> None:
        def again() -> None:
            happen()
            self._events.at(self._events.now + seconds, again)

        self._events.at(self._events.now, again)

    def _route(self) -> None:
        while self.queue:
            replica = self._choose(self.queue[0])
            if replica is None:
                return
            replica.take(self.queue.popleft())

    def _choose(self, item: Item) -> Replica | None:
        ready = [replica for replica in self.replicas if replica.running]
        if self._hashed:
            return self._by_stream(item, ready)
        free = [replica for replica in ready if replica.ongoing < self._machine.max_ongoing]
        if not free:
            return None
        # As Serve's router: the shorter queue of two that are drawn.
        pair = self._chance.sample(free, min(2, len(free)))
        return min(pair, key=lambda replica: replica.ongoing)

    def _by_stream(self, item: Item, ready: list[Replica]) -> Replica | None:
        """Rendezvous hashing: as with Serve's ring, streams of a replica that goes spread over the others."""
        if ready != self._ring:
            self._ring, self._homes = ready, {}
        if item.stream not in self._homes and ready:
            key = max(ready, key=lambda each: crc32(f"{item.stream} {each.id.unique_id}".encode()))
            self._homes[item.stream] = key
        return self._homes.get(item.stream)

    def _freed(self, replica: Replica) -> None:
        if replica.draining:
            self._end(replica)
        self._route()

    def _end(self, replica: Replica) -> None:
        if not replica.ongoing:
            replica.stopped = self._events.now
            self.replicas.remove(replica)
            self.ended.append(replica)

    def _add(self) -> Replica:
        replica = Replica(next(self._numbers), self._machine, self._events, self._freed)
        self.replicas.append(replica)
        return replica

    def _start(self) -> None:
        replica = self._add()

        def run() -> None:
            if not replica.draining:
                replica.running = True
                self._route()

        self._events.at(self._events.now + self._machine.start_seconds * self._chance.uniform(0.8, 1.2), run)

    def _scale(self, target: int) -> None:
        self._target = target
        kept = [replica for replica in self.replicas if not replica.draining]
        for _ in range(target - len(kept)):
            self._start()
        # As Serve does, those go first that have not started yet.
        for replica in sorted(kept, key=lambda each: (each.running, -each.created))[
            : max(0, len(kept) - target)
        ]:
            replica.running, replica.draining = False, True
            self._end(replica)

    def _now(self) -> float:
        return _EPOCH + self._events.now

    def _record(self) -> None:
        now = self._now()
        self._queued.append(TimeStampedValue(now, float(len(self.queue))))
        self._sent = {
            replica: self._sent.get(replica, deque(maxlen=5)) for replica in self.replicas if replica.running
        }
        for replica, sent in self._sent.items():
            sent.append(TimeStampedValue(now, float(replica.ongoing)))
            if self._own:
                for name, value in replica.meter.load().numbers().items():
                    replica.series.setdefault(name, deque(maxlen=5)).append(TimeStampedValue(now, value))

    def _report(self) -> None:
        assert self._state is not None, "only a fleet that scales reports"
        running = {replica.id.to_full_id_str(): [*sent] for replica, sent in self._sent.items()}
        self._state.record_request_metrics_for_handle(
            HandleMetricReport(
                deployment_id=_DEPLOYMENT,
                handle_id="handle",
                actor_id="ingress",
                handle_source=DeploymentHandleSource.UNKNOWN,
                queued_requests=[*self._queued],
                metrics={RUNNING_REQUESTS_KEY: running},
                timestamp=self._now(),
            )
        )
        for replica in self._sent if self._own else ():
            series = {name: [*values] for name, values in replica.series.items()}
            report = ReplicaMetricReport(replica_id=replica.id, metrics=series, timestamp=self._now())
            self._state.record_request_metrics_for_replica(report)

    def _decide(self) -> None:
        assert self._state is not None, "only a fleet that scales decides"
        ready = [replica.id for replica in self.replicas if replica.running]
        self._state.update_running_replica_ids(ready)
        target = self._state.get_decision_num_replicas(self._target)
        if target != self._target:
            self._scale(target)
        self._count()

    def _count(self) -> None:
        running = sum(replica.running for replica in self.replicas)
        self.counts.append((self._events.now, running, self._target))


@contextmanager
def simulated_clock(events: Events) -> Iterator[None]:
    """Ray's autoscaling looks at the simulation's clock while the context lasts."""
    clock = SimpleNamespace(time=lambda: _EPOCH + events.now, monotonic=lambda: _EPOCH + events.now)
    loggers = [logging.getLogger(name) for name in ("ray.serve",)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with patch.object(autoscaling_state, "time", clock), patch.object(autoscaling_policy, "time", clock):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
