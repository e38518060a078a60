"""Long jobs: what SIGKILL costs them, and what they cost the requests of people who wait.

``python -m benchmarks.jobs`` starts a server of its own (fp32, so that two runs can be compared to the
letter) and prints

* how long a job takes undisturbed, and how long with SIGKILL of the ingress replica, of the worker of jobs
  and of all processes at three moments, after the last of which the server is started again; whether both
  texts are the same; and how many segments were recognized twice;
* the latency of short requests on the idle server, and while two jobs run.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from benchmarks.job_client import JobClient, kill_all, kill_replica, long_recording
from benchmarks.live_server import LiveServer, live_server

SAMPLES = Path("samples")


def latencies(server: LiveServer, clip: Path, count: int) -> list[float]:
    """Seconds that each of ``count`` requests took, one after the other."""
    audio, taken = clip.read_bytes(), []
    with httpx.Client(trust_env=False, timeout=120) as client:
        for _ in range(count):
            begin = time.perf_counter()
            client.post(server.url + "/v1/audio/transcriptions", files={"file": audio}).raise_for_status()
            taken.append(time.perf_counter() - begin)
    return taken


def spread(taken: list[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1]


def compare_latency(server: LiveServer, client: JobClient, recording: Path, count: int) -> str:
    clip = min(SAMPLES.glob("*.wav"), key=lambda path: path.stat().st_size)
    latencies(server, clip, 10)
    idle = spread(latencies(server, clip, count))
    jobs = [client.submit(recording) for _ in range(2)]
    for job in jobs:
        client.reach(job, 0.02)
    busy = spread(latencies(server, clip, count))
    still_running = all(client.look(job)["status"] == "running" for job in jobs)
    for job in jobs:
        client.finish(job)
    return (
        f"short requests: median/p95 {idle[0] * 1000:.0f}/{idle[1] * 1000:.0f} ms idle, "
        f"{busy[0] * 1000:.0f}/{busy[1] * 1000:.0f} ms beside two jobs, "
        f"ratio {busy[0] / idle[0]:.2f}/{busy[1] / idle[1]:.2f}"
        + ("" if still_running else " (the jobs ended meanwhile: take longer ones)")
    )


def main(
    minutes: Annotated[float, typer.Option(help="Length of the recording.")] = 120,
    requests: Annotated[int, typer.Option(help="Short requests on the idle and on the busy server.")] = 60,
) -> None:
    """Measure jobs on a server of their own."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        data, recording = directory / "data", directory / "long.wav"
        long_recording(sorted(SAMPLES.glob("*.wav")), recording, minutes)
        env = {"RAY_TMPDIR": "/tmp", "PRECISION": "fp32", "DATA_DIR": str(data)}
        with live_server(directory / "first.log", env=env) as server:
            client = JobClient(server, data)
            console.print(compare_latency(server, client, recording, requests))
            undisturbed = client.submit(recording)
            begin = time.perf_counter()
            text = client.finish(undisturbed)
            console.print(f"undisturbed: {time.perf_counter() - begin:.1f} s for {minutes:g} minutes")
            job = client.submit(recording)
            begin = time.perf_counter()
            client.reach(job, 0.15)
            kill_replica(server, "Ingress")
            client.reach(job, 0.4)
            kill_replica(server, "Jobs")
            client.reach(job, 0.65, attempt=2)
            kill_all(server)
        with live_server(directory / "second.log", env=env) as server:
            client = JobClient(server, data)
            same = client.finish(job) == text
            seconds = time.perf_counter() - begin
        work, verdict = client.work(job), "the same" if same else "NOT THE SAME"
        console.print(
            f"with three kills and a restart: {seconds:.1f} s, text {verdict}, "
            f"{work.recognized_again} of {work.segments} segments recognized twice"
        )


if __name__ == "__main__":
    typer.run(main)
