"""Runs the jobs of one process: takes them, keeps its leases, and puts back what it cannot finish.

Several runners, on several machines, may work on one database.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from serve_app.activity import note_status
from serve_app.errors import AsrError, Overloaded
from serve_app.jobs.faults import is_transient, job_error
from serve_app.jobs.lease import Lease, LeaseLost
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.spool import Spool
from serve_app.jobs.types import Job, JobError, JobStatus
from serve_app.jobs.worker import Worker
from serve_app.stages import current_stage

logger = logging.getLogger("ray.serve")

_INTERRUPTED = JobError(
    "internal_error",
    "The server was interrupted too often while it worked on this job; its log may tell why.",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds but ``failures`` and ``faults``, which count attempts in a row that brought nothing new.

    Attributes:
        poll: between two looks at the database.
        lease: how long a job waits for a worker that has died.
        renew: between two renewals of leases.
        clean: between two removals of what has expired.
        abandoned: age of a directory that belongs to no job.
        first_pause: before the second attempt; it doubles with each.
        longest_pause: what it doubles to.
        failures: attempts of a job that meets what passes, such as a lost model, or that takes its worker
            with it.
        faults: attempts of a job that meets what should not be.
    """

    poll: float = 0.5
    lease: float = 10.0
    renew: float = 2.0
    clean: float = 60.0
    abandoned: float = 3600.0
    first_pause: float = 2.0
    longest_pause: float = 300.0
    failures: int = 8
    faults: int = 3


class JobMetrics(Protocol):
    """Where a runner tells how it goes."""

    def jobs(self, queued: int, running: int, oldest: float) -> None:
        """Jobs of the whole database; ``oldest``: age of the oldest that waits, in seconds."""
        ...

    def ended(self, status: JobStatus, seconds: float) -> None:
        """A job of this runner was completed, with so many seconds of audio, or failed, with 0."""
        ...


Follow = Callable[[Job], AbstractContextManager[None]]


def _follow_nothing(job: Job) -> AbstractContextManager[None]:
    return nullcontext()


class Runner:
    """``max_running`` jobs at once, ``segments_in_flight`` segments of each; both may change at any time."""

    def __init__(
        self,
        queue: JobQueue,
        spool: Spool,
        worker: Worker,
        metrics: JobMetrics | None = None,
        timing: Timing | None = None,
        follow: Follow = _follow_nothing,
    ) -> None:
        """``follow`` holds each attempt of a job."""
        self._follow = follow
        self.max_running = 2
        self.segments_in_flight = 8
        self._queue = queue
        self._spool = spool
        self._worker = worker
        self._metrics = metrics
        self._timing = timing or Timing()
        self._name = f"{socket.gethostname()[:100]}-{os.getpid()}-{uuid.uuid4().hex}"
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._awake = asyncio.Event()
        self._ending: set[tuple[str, int]] = set()
        self._renewed = self._counted = self._cleaned = -float("inf")

    def wake(self) -> None:
        """There is something new to look at."""
        self._awake.set()

    async def run(self) -> None:
        """Work until cancelled; then what runs is put back for others, at once."""
        try:
            while True:
                self._awake.clear()
                try:
                    await self._look()
                except (SQLAlchemyError, Overloaded, OSError) as error:
                    logger.warning("jobs: the database cannot be used for now: %r", error)
                try:
                    async with asyncio.timeout(self._timing.poll):
                        await self._awake.wait()
                except TimeoutError:
                    pass
        finally:
            await self._stop([*self._running.values()])

    async def _look(self) -> None:
        now = time.monotonic()
        if self._running:
            await self._keep_leases(now)
        while len(self._running) < self.max_running:
            lease = await asyncio.to_thread(self._queue.claim, self._name, self._timing.lease)
            if lease is None:
                break
            self._start(lease)
        if now - self._counted >= self._timing.renew and self._metrics is not None:
            self._counted = now
            queued, running = await asyncio.to_thread(self._queue.counts)
            self._metrics.jobs(queued, running, await asyncio.to_thread(self._queue.oldest))
        if now - self._cleaned >= self._timing.clean:
            self._cleaned = now
            await asyncio.to_thread(self._clean)

    async def _keep_leases(self, now: float) -> None:
        """Renew the leases; stop the work on jobs whose lease is gone."""
        if now - self._renewed >= self._timing.renew:
            jobs = [job_id for job_id, _ in self._running]
            await asyncio.to_thread(self._queue.renew, self._name, jobs, self._timing.lease)
            self._renewed = now
        held = await asyncio.to_thread(self._queue.held, self._name)
        for key, task in self._running.items():
            if key not in held and key not in self._ending and not task.cancelling():
                task.cancel()

    def _start(self, lease: Lease) -> None:
        task = asyncio.create_task(self._work(lease))
        self._running[lease.key] = task

        def ended(_: object) -> None:
            del self._running[lease.key]
            self._ending.discard(lease.key)
            self.wake()

        task.add_done_callback(ended)

    async def _work(self, lease: Lease) -> None:
        with self._follow(lease.job):
            await self._attempt(lease)

    async def _attempt(self, lease: Lease) -> None:
        job = lease.job
        try:
            if lease.failures > self._timing.failures:
                await self._finish(lease, _INTERRUPTED)
                return
            seconds = await self._worker.transcribe(lease, self.segments_in_flight)
            await self._finish(lease, seconds=seconds)
        except LeaseLost:
            logger.info("job %s: canceled, or taken over", job.id)
        except asyncio.CancelledError:
            await self._put_back(lease)
            raise
        except (AsrError, SQLAlchemyError, OSError) as error:
            logger.warning("job %s: attempt %d: %r", job.id, job.attempts, error)
            await self._fail(lease, error, self._timing.failures if is_transient(error) else 0)
        except Exception as error:
            logger.exception("job %s: attempt %d", job.id, job.attempts)
            await self._fail(lease, error, self._timing.faults)

    async def _finish(self, lease: Lease, error: JobError | None = None, seconds: float = 0.0) -> None:
        self._ending.add(lease.key)
        await asyncio.to_thread(self._queue.finish, lease, error)
        await asyncio.to_thread(self._spool.remove, lease.job.id)
        status = JobStatus.FAILED if error else JobStatus.COMPLETED
        note_status(status.value)
        if self._metrics is not None:
            self._metrics.ended(status, seconds)

    async def _put_back(self, lease: Lease) -> None:
        """Leave a job to others, at once; no effect if the lease is gone."""
        try:
            await asyncio.to_thread(self._queue.put_back, lease, blameless=True)
        except (SQLAlchemyError, Overloaded) as error:
            logger.warning("job %s waits until its lease runs out: %r", lease.job.id, error)

    async def _fail(self, lease: Lease, error: Exception, attempts: int) -> None:
        """Try again later, unless as many ``attempts`` in a row brought nothing."""
        current_stage().fail(error)
        timing = self._timing
        try:
            failures = await asyncio.to_thread(self._queue.failures, lease)
            if failures >= attempts:
                await self._finish(lease, job_error(error))
            else:
                pause = min(timing.first_pause * 2 ** max(failures - 1, 0), timing.longest_pause)
                await asyncio.to_thread(self._queue.put_back, lease, pause)
        except LeaseLost:
            pass
        except (SQLAlchemyError, Overloaded) as fault:
            logger.warning("job %s waits until its lease runs out: %r", lease.job.id, fault)

    def _clean(self) -> None:
        for job_id in self._queue.expire():
            self._spool.remove(job_id)
        abandoned = self._spool.abandoned(self._timing.abandoned)
        needed = self._queue.unfinished(abandoned)
        for job_id in abandoned:
            if job_id not in needed:
                self._spool.remove(job_id)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
