"""Jobs of a server of one's own: sent and watched over HTTP, and looked at in its database."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from benchmarks.live_server import LiveServer

_LONGEST_WAIT = 600
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """What a job has cost: ``results`` came from the recognizer, for ``segments`` segments."""

    attempts: int
    results: int
    segments: int

    @property
    def recognized_again(self) -> int:
        return self.results - self.segments


class JobClient:
    """Uses ``/v1/jobs`` of a server, which may be another one after a restart; ``data``: its DATA_DIR."""

    def __init__(self, server: LiveServer, data: Path) -> None:
        self.server = server
        self._data = data

    def submit(self, recording: Path, **fields: str) -> str:
        """The id of a new job."""
        with recording.open("rb") as file:
            response = httpx.post(
                f"{self.server.url}/v1/jobs",
                files={"file": file},
                data=fields,
                timeout=300,
                trust_env=False,
            )
        response.raise_for_status()
        return str(response.json()["id"])

    def look(self, job_id: str) -> dict[str, Any]:
        """The job now. While nobody answers, because the server comes up again, it is asked again."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            try:
                response = httpx.get(f"{self.server.url}/v1/jobs/{job_id}", timeout=30, trust_env=False)
                if response.status_code == 200:
                    found: dict[str, Any] = response.json()
                    return found
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody answers for {job_id}")
            time.sleep(_POLL)

    def wait_for(self, job_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The job as soon as the condition holds."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while not condition(job := self.look(job_id)):
            if time.monotonic() > deadline or job["status"] in ("failed", "canceled"):
                raise TimeoutError(f"nothing more happens: {job}")
            time.sleep(_POLL)
        return job

    def finish(self, job_id: str) -> str:
        """The text of the job once it is completed."""
        self.wait_for(job_id, lambda job: job["status"] == "completed")
        response = httpx.get(
            f"{self.server.url}/v1/jobs/{job_id}/result?response_format=text", timeout=60, trust_env=False
        )
        response.raise_for_status()
        return response.text

    def reach(self, job_id: str, share: float, attempt: int = 1) -> None:
        """Wait until so much is done, and this attempt runs; asks the database, not the server."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            status, attempts, done, total = self._row(job_id, "status, attempts, seconds_done, seconds_total")
            if status == "running" and attempts == attempt and total and done / total >= share:
                return
            if time.monotonic() > deadline or status not in ("queued", "running"):
                raise TimeoutError(f"{share:.0%} in attempt {attempt} were not seen: {status}, {attempts}")
            time.sleep(_POLL / 5)

    def work(self, job_id: str) -> Work:
        """What a job that has ended has cost."""
        return Work(*self._row(job_id, "attempts, results_kept, segments"))

    def _row(self, job_id: str, columns: str) -> tuple[Any, ...]:
        connection = sqlite3.connect(self._data / "jobs.sqlite3", timeout=30)
        try:
            found = connection.execute(f"SELECT {columns} FROM asr_jobs WHERE id = ?", (job_id,))
            row: tuple[Any, ...] = found.fetchone()
            return row
        finally:
            connection.close()


def kill_replica(server: LiveServer, deployment: str) -> None:
    """SIGKILL the only replica of a deployment, and see it gone."""
    (victim,) = server.replicas(deployment)
    victim.kill()
    victim.wait(30)


def kill_all(server: LiveServer) -> None:
    """SIGKILL every process of a server, Ray's own among them."""
    processes = server.processes()
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(30)


def long_recording(samples: list[Path], target: Path, minutes: float) -> None:
    """Say the samples over and over, each time in another order, into a wav file of so many minutes."""
    clips = [soundfile.read(path, dtype="int16") for path in samples]
    rate = clips[0][1]
    left, turn = int(minutes * 60 * rate), 0
    with soundfile.SoundFile(target, "w", rate, 1, "PCM_16") as file:
        while left > 0:
            clip = np.concatenate((clips[turn % len(clips)][0], np.zeros(rate // 2, np.int16)))[:left]
            file.write(clip)
            left -= len(clip)
            turn += 1 + (turn % 3 == 0)
