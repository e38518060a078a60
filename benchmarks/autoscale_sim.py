"""How a deployment's replicas follow its traffic: our policy, Serve's own and a fixed fleet, side by side.

    python -m benchmarks.autoscale_sim bursts
    python -m benchmarks.autoscale_sim traffic.jsonl --plot autoscaling.png

Time is simulated (:mod:`benchmarks.autoscale_fleet`), the policies are the real ones. Serve's own is given
the ``target_ongoing_requests``, and the patience before it takes replicas away, with which it does best for
the replica-seconds that ours took; the fixed fleet has as many replicas as that comes to.
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.autoscale_fleet import Events, Fleet, Item, Machine, simulated_clock
from benchmarks.autoscale_traffic import GENERATED, Request, Traffic, TrafficError, generate, read_traffic
from deployments.autoscaling import policy_fault

SEGMENT_SECONDS = 20.0
"""``MERGE_SEGMENT_SEC``."""

IN_FLIGHT = 32
"""``SEGMENTS_IN_FLIGHT``: segments of a file that are asked for at once."""

CHUNK_SECONDS = 0.6

_SCALING = {"initial_replicas": 1, "min_replicas": 1, "metrics_interval_s": 1, "look_back_period_s": 2}
_OURS = {"upscale_delay_s": 1, "downscale_delay_s": 10}
_STOCK_PATIENCE = (1, 10, 30, 60, 120, 300)
_TOLERANCE = 0.02
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the traffic. Seconds.

    ``waits`` are those of each piece of audio, from its arrival at the deployment to the begin of its work
    (``lags``, for live chunks: to its result); ``clips`` those of clips alone. ``files``: from the arrival of
    each file to its end. ``counts``: time, replicas that run, and those that are wanted.
    """

    name: str
    replica_seconds: float
    waits: Sequence[float]
    clips: Sequence[float]
    files: Sequence[float]
    counts: Sequence[tuple[float, int, int]]
    end: float

    def line(self) -> str:
        """The numbers of a report."""
        most = max(running for _, running, _ in self.counts)
        figures = [percentile(self.waits, 50), percentile(self.waits, 95), percentile(self.clips, 95)]
        shown = " ".join(f"{figure:8.2f}" for figure in figures)
        cost = f"{self.replica_seconds:9.0f} {most:5d}"
        return f"{self.name:34} {cost} {shown} {percentile(self.files, 95):8.0f}"


HEADER = f"{'':34} {'repl.-s':>9} {'most':>5} {'p50 wait':>8} {'p95 wait':>8} {'clips':>8} {'files':>8}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` percent are at or below; 0 for none."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)] if values else 0.0


class _Clients:
    """Send traffic to a fleet, and note what becomes of it."""

    def __init__(self, events: Events, fleet: Fleet) -> None:
        self._events, self._fleet = events, fleet
        self.waits: list[float] = []
        self.clips: list[float] = []
        self.files: list[float] = []
        self.open = 0

    def send(self, number: int, request: Request) -> None:
        self.open += 1
        if request.kind == "clip":
            self._clip(request)
        elif request.kind == "file":
            self._file(request)
        else:
            self._live(number, request)

    def _clip(self, request: Request) -> None:
        def done(item: Item) -> None:
            self.open -= 1
            self.waits.append(item.began - item.arrived)
            self.clips.append(self.waits[-1])

        self._submit(request.audio_seconds, done)

    def _file(self, request: Request) -> None:
        left = deque(_segments(request.audio_seconds))
        flying = 0

        def fly() -> None:
            nonlocal flying
            while left and flying < IN_FLIGHT:
                flying += 1
                self._submit(left.popleft(), done)

        def done(item: Item) -> None:
            nonlocal flying
            flying -= 1
            self.waits.append(item.began - item.arrived)
            fly()
            if not flying:
                self.open -= 1
                self.files.append(self._events.now - request.at)

        fly()

    def _live(self, number: int, request: Request) -> None:
        chunks = max(1, round(request.audio_seconds / CHUNK_SECONDS))

        def done(item: Item) -> None:
            self.waits.append(item.ended - item.arrived)

        def say(chunk: int) -> None:
            self._submit(CHUNK_SECONDS, done, live=True, stream=number)
            if chunk + 1 < chunks:
                self._events.at(request.at + (chunk + 1) * CHUNK_SECONDS, partial(say, chunk + 1))
            else:
                self.open -= 1

        say(0)

    def _submit(self, seconds: float, done: Any, *, live: bool = False, stream: int = 0) -> None:
        self._fleet.submit(Item(seconds, self._events.now, live, stream, done=done))


def _segments(seconds: float) -> Iterator[float]:
    count = math.ceil(seconds / SEGMENT_SECONDS)
    yield from [seconds / count] * count


def simulate(
    name: str, traffic: Traffic, autoscaling: Mapping[str, Any] | int, machine: Machine, seed: int = 1
) -> Outcome:
    """Send ``traffic`` to a fleet until all of it is done."""
    events = Events()
    with simulated_clock(events):
        hashed = any(request.kind == "live" for request in traffic)
        fleet = Fleet(events, machine, autoscaling, seed, hashed=hashed)
        clients = _Clients(events, fleet)
        for number, request in enumerate(traffic):
            events.at(request.at, partial(clients.send, number, request))
        last = traffic[-1].at
        events.run(lambda: events.now > last and not clients.open)
        return Outcome(
            name,
            fleet.replica_seconds(),
            clients.waits,
            clients.clips,
            clients.files,
            fleet.counts,
            events.now,
        )


def ours(kwargs: Mapping[str, float], most: int) -> dict[str, Any]:
    """An ``autoscaling_config`` with :class:`deployments.autoscaling.AudioPolicy`.

    Raises:
        ValueError: it has no such settings.
    """
    policy = {"policy_function": "deployments.autoscaling:AudioPolicy", "policy_kwargs": {**kwargs}}
    config = {**_SCALING, **_OURS, "max_replicas": most, "policy": policy}
    fault = policy_fault(config)
    if fault is not None:
        raise ValueError(fault)
    return config


def stock(target: float, patience: float, most: int) -> dict[str, Any]:
    """One with Serve's own policy."""
    wanted = {"target_ongoing_requests": target, "upscale_delay_s": 1, "downscale_delay_s": patience}
    return {**_SCALING, **wanted, "max_replicas": most}


def matched_stock(
    traffic: Traffic, machine: Machine, most: int, replica_seconds: float, patience: float
) -> Outcome:
    """Serve's own policy, with the target that takes ``replica_seconds``, or as near as it gets to them."""
    low, high = 0.05, 64.0
    best: Outcome | None = None
    for _ in range(_TRIES):
        target = math.sqrt(low * high)
        name = f"stock, target {target:.2f}, {patience:g} s"
        outcome = simulate(name, traffic, stock(target, patience, most), machine)
        distance = abs(outcome.replica_seconds - replica_seconds)
        if best is None or distance < abs(best.replica_seconds - replica_seconds):
            best = outcome
        if distance <= _TOLERANCE / 2 * replica_seconds:
            break
        low, high = (target, high) if outcome.replica_seconds > replica_seconds else (low, target)
    assert best is not None, "some were tried"
    return best


def compare(
    traffic: Traffic, machine: Machine, most: int, kwargs: Mapping[str, float], processes: int = 1
) -> list[Outcome]:
    """Ours, the best of Serve's own for as many replica-seconds, the others of these, and a fixed fleet."""
    own = simulate("AudioPolicy", traffic, ours(kwargs, most), machine)
    with ProcessPoolExecutor(processes) as pool:
        tries = [
            pool.submit(matched_stock, traffic, machine, most, own.replica_seconds, patience)
            for patience in _STOCK_PATIENCE
        ]
        stocks = [each.result() for each in tries]
    equal = [each for each in stocks if each.replica_seconds <= own.replica_seconds * (1 + _TOLERANCE)]
    near = [each for each in equal if each.replica_seconds >= own.replica_seconds * (1 - _TOLERANCE)]
    stocks.sort(key=lambda each: (each not in near, percentile(each.waits, 95)))
    count = max(1, round(own.replica_seconds / own.end))
    return [own, *stocks, simulate(f"fixed, {count}", traffic, count, machine)]


def plot(outcomes: Sequence[Outcome], traffic: Traffic, path: Path) -> None:
    """Draw replicas, what waits came to, and what it cost."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 8), layout="constrained")
        load, replicas, waits, cost = figure.subplots(4, 1)
        minutes = max(outcome.end for outcome in outcomes) / 60
        load.hist(
            [request.at / 60 for request in traffic],
            bins=120,
            weights=[request.audio_seconds / 60 for request in traffic],
        )
        load.set(ylabel="minutes of audio that came", xlim=(0, minutes), xlabel="minutes")
        for outcome in outcomes:
            times = [when / 60 for when, _, _ in outcome.counts]
            replicas.step(times, [running for _, running, _ in outcome.counts], label=outcome.name)
            shares = [index / max(1, len(outcome.waits) - 1) for index in range(len(outcome.waits))]
            waits.plot(shares, sorted(outcome.waits))
        replicas.set(ylabel="replicas", xlim=(0, minutes), xlabel="minutes")
        replicas.legend()
        waits.set(ylabel="wait, seconds", xlabel="share of all pieces that wait no longer", xlim=(0.5, 1))
        cost.barh([each.name for each in outcomes], [each.replica_seconds / 3600 for each in outcomes])
        cost.set(xlabel="replica-hours")
        figure.savefig(path, dpi=130)


def main(
    source: Annotated[str, typer.Argument(help=f"{', '.join(GENERATED)}, or a file of recorded traffic.")],
    minutes: Annotated[float, typer.Option(help="Length of generated traffic.")] = 30,
    load: Annotated[int, typer.Option(help="How many times over it is generated.")] = 2,
    replicas: Annotated[int, typer.Option(help="Most replicas.")] = 64,
    speed: Annotated[float, typer.Option(help="Seconds of audio that a replica does in one.")] = 30,
    overhead: Annotated[float, typer.Option(help="Seconds that each batch costs besides.")] = 0.05,
    start: Annotated[float, typer.Option(help="Seconds that a replica takes to start.")] = 15,
    kwargs: Annotated[str, typer.Option(help="policy_kwargs of AudioPolicy, as JSON.")] = "{}",
    seed: Annotated[int, typer.Option(help="Of the traffic that is generated.")] = 1,
    processes: Annotated[int, typer.Option(help="Simulations at once.")] = 2,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="A picture; needs matplotlib.")] = None,
) -> None:
    """Compare policies of autoscaling in simulated time."""
    try:
        generated = source in GENERATED
        traffic = generate(source, minutes * 60, seed, load) if generated else read_traffic(Path(source))
        machine = Machine(speed=speed, overhead=overhead, start_seconds=start)
        outcomes = compare(traffic, machine, replicas, json.loads(kwargs), processes)
    except (TrafficError, OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    hours = sum(request.audio_seconds for request in traffic) / 3600
    typer.echo(f"{len(traffic)} requests, {hours:.0f} h of audio in {traffic[-1].at / 60:.0f} min\n{HEADER}")
    for outcome in outcomes:
        typer.echo(outcome.line())
    own, best = (percentile(each.waits, 95) for each in outcomes[:2])
    if best:
        typer.echo(f"p95 wait: {100 * (1 - own / best):.0f} % below that of the stock policy")
    if plot_to is not None:
        plot([*outcomes[:2], outcomes[-1]], traffic, plot_to)


app = typer.Typer(add_completion=False)
app.command()(main)

if __name__ == "__main__":
    app()
