"""The same queue of mixed lengths for our policy and Serve's own, side by side on real Serve.

    python -m benchmarks.autoscale_real

Each policy has a deployment of its own, of the service's own ``Recognizer``, whose model takes a known time
(:mod:`benchmarks.autoscale_engine`) and sleeps meanwhile, so that a machine with four cores is enough. All
get the same requests at the same time. Serve's own policy runs with several targets, since none of them
takes just as many replica-seconds as ours: what it would wait for as many is read between the nearest two.
"""

import asyncio
import json
import logging
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import typer
from ray import serve
from ray.serve._private.common import ReplicaState

from benchmarks.autoscale_engine import OVERHEAD_SECONDS, SPEED
from benchmarks.autoscale_sim import IN_FLIGHT, SEGMENT_SECONDS, ours, percentile, stock
from benchmarks.autoscale_traffic import Request, Traffic, read_traffic
from deployments.messages import SAMPLE_RATE, AudioPiece, AudioSlice, RecognitionRequest
from deployments.recognizer import Recognizer, RecognizerOptions

_LOOK_SECONDS = 0.25
_PAID = (ReplicaState.STARTING, ReplicaState.UPDATING, ReplicaState.RUNNING, ReplicaState.STOPPING)


def mixed(seconds: float = 200, seed: int = 1) -> list[Request]:
    """More and more clips, and then fewer, with a file now and then."""
    chance = random.Random(seed)
    requests = [
        Request(seconds * share, chance.uniform(100, 300), "file") for share in (0.2, 0.35, 0.5, 0.65, 0.8)
    ]
    at = 0.0
    while at < seconds:
        rate = 0.3 + 4 * (1 - math.cos(2 * math.pi * at / seconds))
        requests.append(Request(at, chance.uniform(1, 8), "clip"))
        at += chance.expovariate(rate)
    return sorted(requests)


@dataclass(slots=True)
class Measured:
    """What one policy did. Seconds."""

    name: str
    waits: list[float] = field(default_factory=list)
    replica_seconds: float = 0.0
    counts: list[tuple[float, int]] = field(default_factory=list)
    lost: int = 0

    def line(self) -> str:
        most = max(count for _, count in self.counts)
        waits = " ".join(f"{percentile(self.waits, share):8.2f}" for share in (50, 95, 99))
        return (
            f"{self.name:24} {len(self.waits):6} {self.lost:5} {self.replica_seconds:9.0f} {most:5} {waits}"
        )


HEADER = f"{'':24} {'done':>6} {'lost':>5} {'repl.-s':>9} {'most':>5} {'p50':>8} {'p95':>8} {'p99 wait':>8}"


class _Client:
    """Sends traffic to one deployment."""

    def __init__(self, handle: Any, blocks: Any, measured: Measured) -> None:
        self._handle, self._audio, self._measured = handle, blocks, measured

    async def run(self, traffic: Traffic) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for request in traffic:
                await asyncio.sleep(max(0.0, began + request.at - time.monotonic()))
                tasks.create_task(self._send(request))

    async def _send(self, request: Request) -> None:
        if request.kind == "clip":
            await self._ask(request.audio_seconds)
            return
        room = asyncio.Semaphore(IN_FLIGHT)
        count = math.ceil(request.audio_seconds / SEGMENT_SECONDS)

        async def segment() -> None:
            async with room:
                await self._ask(request.audio_seconds / count)

        await asyncio.gather(*(segment() for _ in range(count)))

    async def _ask(self, seconds: float) -> None:
        piece = AudioPiece(self._audio, 0, round(seconds * SAMPLE_RATE))
        began = time.monotonic()
        answer = await self._handle.transcribe.remote(RecognitionRequest(AudioSlice((piece,))))
        took = time.monotonic() - began
        if len(answer.words) == math.ceil(piece.end * 1000 // SAMPLE_RATE / 1000):
            # In a batch, the work of others is part of it, as it would be for a queue of one.
            self._measured.waits.append(max(0.0, took - OVERHEAD_SECONDS - seconds / SPEED))
        else:
            self._measured.lost += 1


async def _watch(measured: Mapping[str, Measured]) -> None:
    """Count replicas, those that start and end included, until canceled."""
    last = time.monotonic()
    began = last
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        status = await asyncio.to_thread(serve.status)
        now = time.monotonic()
        for name, each in measured.items():
            (deployment,) = status.applications[name].deployments.values()
            states = deployment.replica_states
            each.replica_seconds += sum(states.get(state, 0) for state in _PAID) * (now - last)
            each.counts.append((now - began, states.get(ReplicaState.RUNNING, 0)))
        last = now


async def _measure(traffic: Traffic, configs: Mapping[str, Mapping[str, Any]]) -> list[Measured]:
    block = ray.put(np.zeros(round(120 * SAMPLE_RATE), np.int16))
    measured = {name: Measured(name) for name in configs}
    watch = asyncio.create_task(_watch(measured))
    try:
        async with asyncio.TaskGroup() as tasks:
            for name in configs:
                client = _Client(serve.get_app_handle(name), block, measured[name])
                tasks.create_task(client.run(traffic))
    finally:
        watch.cancel()
    return [*measured.values()]


def start(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """A deployment for each, by its name. All of them wait for one replica."""
    engine = RecognizerOptions("benchmarks.autoscale_engine")
    kind: Any = Recognizer
    for name, autoscaling in configs.items():
        node = kind.options(
            name=name,
            max_ongoing_requests=32,
            ray_actor_options={"num_cpus": 0},
            autoscaling_config={**autoscaling},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        ).bind(str(Path("models/starter/paraformer").absolute()), engine)
        serve.run(node, name=name, route_prefix=None)


def at_equal_cost(own: Measured, others: Sequence[Measured]) -> float:
    """The stock policy's p95 wait for ``own``'s replica-seconds: on the line between its two runs around
    them, or that of the run that is nearest."""
    points = sorted((each.replica_seconds, percentile(each.waits, 95)) for each in others)
    costs, waits = [cost for cost, _ in points], [wait for _, wait in points]
    return float(np.interp(own.replica_seconds, costs, waits))


def _configs(kwargs: Mapping[str, float], targets: Sequence[float], most: int) -> Iterator[tuple[str, Any]]:
    yield "AudioPolicy", ours(kwargs, most) | {"downscale_delay_s": 5}
    for target in targets:
        yield f"stock-{target:g}", stock(target, 5, most)


def main(
    replicas: Annotated[int, typer.Option(help="Most replicas of each policy.")] = 6,
    targets: Annotated[str, typer.Option(help="target_ongoing_requests of the stock policy.")] = "2,6",
    kwargs: Annotated[str, typer.Option(help="policy_kwargs of AudioPolicy, as JSON.")] = (
        '{"target_wait_seconds": 1, "target_busy": 0.5, "hold_seconds": 0}'
    ),
    traffic_file: Annotated[Path | None, typer.Option("--traffic", help="Recorded traffic.")] = None,
) -> None:
    """Compare policies of autoscaling on real Serve."""
    traffic = mixed() if traffic_file is None else read_traffic(traffic_file)
    configs = dict(_configs(json.loads(kwargs), [float(each) for each in targets.split(",")], replicas))
    environment = {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    # A busy machine is late now and then; what comes of that is in the figures.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.WARNING)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        start(configs)
        own, *others = asyncio.run(_measure(traffic, configs))
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has not annotated it
        ray.shutdown()
    hours = sum(request.audio_seconds for request in traffic) / 60
    typer.echo(f"{len(traffic)} requests, {hours:.0f} min of audio in {traffic[-1].at:.0f} s\n{HEADER}")
    for each in (own, *others):
        typer.echo(each.line())
    wait, equal = percentile(own.waits, 95), at_equal_cost(own, others)
    below = 100 * (1 - wait / equal)
    typer.echo(f"p95 wait: {below:.0f} % below that of the stock policy at as many replica-seconds")


if __name__ == "__main__":
    typer.run(main)
