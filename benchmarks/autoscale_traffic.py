"""Traffic for the simulator of autoscaling: generated, or recorded as JSON lines.

A line is ``{"at": 12.5, "audio_seconds": 4.2, "kind": "clip"}``: when a request came, in seconds from the
begin of the recording, how much audio it had, and what it was: a ``clip`` is recognized in one piece, a
``file`` in segments, and a ``live`` session sends its audio as fast as it is spoken.

A recording of one's own is made of the log of a server that ran with ``LOG_TRANSCRIPTS=true``, since a line
about a result tells how long its audio was. What was said is not kept:

    python -m benchmarks.autoscale_traffic server.log traffic.jsonl
"""

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

Kind = Literal["clip", "file", "live"]
KINDS: tuple[Kind, ...] = ("clip", "file", "live")

CLIP_SECONDS = 60.0
"""A recording up to this length counts as a clip."""


class TrafficError(Exception):
    """A recording cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """``at``: seconds from the begin. ``audio_seconds``: how long the recording, or the session, is."""

    at: float
    audio_seconds: float
    kind: Kind


Traffic = Sequence[Request]


def read_traffic(path: Path) -> list[Request]:
    """The requests of a recording, in the order of their arrival.

    Raises:
        TrafficError: a line is not a request.
    """
    requests = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            requests.append(_request(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise TrafficError(f"{path}, line {number}: this is not a request ({error}).") from error
    if not requests:
        raise TrafficError(f"{path} has no requests.")
    return sorted(requests)


def _request(values: Mapping[str, object]) -> Request:
    at, seconds = float(str(values["at"])), float(str(values["audio_seconds"]))
    kind = next((kind for kind in KINDS if kind == values["kind"]), None)
    if kind is None:
        raise ValueError(f"kind is {values['kind']!r:.20}; there are {', '.join(KINDS)}")
    if not (math.isfinite(at) and math.isfinite(seconds) and at >= 0 and seconds > 0):
        raise ValueError("at has to be 0 or more, and audio_seconds above 0")
    return Request(at, seconds, kind)


def write_traffic(requests: Iterable[Request], path: Path) -> None:
    """One request on each line."""
    lines = [json.dumps(asdict(request)) for request in sorted(requests)]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def bursts(chance: random.Random, seconds: float) -> Iterator[Request]:
    """A few clips all the time; every five minutes a burst, now of very many short clips, now of files."""
    yield from _steady(chance, 0, seconds, 4, lambda: chance.uniform(2, 12), "clip")
    for number, begin in enumerate(range(60, math.floor(seconds), 300)):
        if number % 2:
            for _ in range(24):
                yield Request(begin + chance.uniform(0, 5), chance.uniform(300, 1500), "file")
        else:
            yield from _steady(chance, begin, begin + 20, 60, lambda: chance.uniform(1, 4), "clip")


def day(chance: random.Random, seconds: float) -> Iterator[Request]:
    """A day, shortened: clips of people while they are awake, files of an archive while they sleep."""
    step = 10.0
    for index in range(math.ceil(seconds / step)):
        begin = index * step
        awake = 0.5 - 0.5 * math.cos(2 * math.pi * begin / seconds)
        clips, files = 60 * awake**2, 0.08 * (1 - awake)
        yield from _steady(chance, begin, begin + step, clips, lambda: chance.uniform(2, 10), "clip")
        yield from _steady(chance, begin, begin + step, files, lambda: chance.uniform(300, 1800), "file")


def long_file(chance: random.Random, seconds: float) -> Iterator[Request]:
    """Clips, and among them one recording of 5 hours, and a meeting now and then."""
    yield from _steady(chance, 0, seconds, 12, lambda: chance.uniform(2, 10), "clip")
    yield Request(seconds * 0.2, 5 * 3600, "file")
    yield from _steady(chance, seconds * 0.3, seconds, 1 / 60, lambda: chance.uniform(1800, 5400), "file")


def live(chance: random.Random, seconds: float) -> Iterator[Request]:
    """Sessions of some minutes, of which there are more and then fewer."""
    step = 10.0
    for index in range(math.ceil(seconds / step)):
        begin = index * step
        share = 0.5 - 0.5 * math.cos(2 * math.pi * begin / seconds)
        yield from _steady(chance, begin, begin + step, 5 * share, lambda: chance.uniform(20, 240), "live")


GENERATED: Mapping[str, Callable[[random.Random, float], Iterator[Request]]] = {
    "bursts": bursts,
    "day": day,
    "long-file": long_file,
    "live": live,
}


def generate(name: str, seconds: float, seed: int = 1, load: int = 1) -> list[Request]:
    """Traffic of one of :data:`GENERATED`, ``load`` times over; the same for the same ``seed``."""
    chances = [random.Random(f"{seed} {number}") for number in range(load)]
    return sorted(request for chance in chances for request in GENERATED[name](chance, seconds))


def _steady(
    chance: random.Random, begin: float, end: float, rate: float, length: Callable[[], float], kind: Kind
) -> Iterator[Request]:
    """``rate`` requests in a second, on average; ``length`` in seconds."""
    at = begin
    while rate > 0 and (at := at + chance.expovariate(rate)) < end:
        yield Request(at, length(), kind)


_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \S+ \S+ (\S+) -- (.*)")
"""A line of Serve's log: when, of which request, and what."""

_RESULT = re.compile(r"recognized ([\d.]+) s to ([\d.]+) s: ")
_ACCESS = re.compile(r"(\S+) \S+ \S+ ([\d.]+)ms$")


@dataclass(slots=True)
class _Seen:
    """What the lines of one request tell; seconds since 1970."""

    first: float
    audio_seconds: float = 0.0
    results: int = 0
    took: float | None = None
    method: str = ""

    def take(self, message: str) -> None:
        if (result := _RESULT.match(message)) is not None:
            self.results += 1
            self.audio_seconds = max(self.audio_seconds, float(result[2]))
        elif (access := _ACCESS.search(message)) is not None:
            self.method, self.took = access[1], float(access[2]) / 1000

    @property
    def kind(self) -> Kind:
        if self.method.startswith("WS") or self.results > 1:
            return "live"
        return "clip" if self.audio_seconds <= CLIP_SECONDS else "file"


def from_log(lines: Iterable[str]) -> list[Request]:
    """The requests that a server logged, as text or as JSON, in the order of their arrival.

    Raises:
        TrafficError: no line tells of a result.
    """
    seen: dict[str, _Seen] = {}
    ends: dict[str, float] = {}
    for when, request_id, message in filter(None, map(_logged, lines)):
        seen.setdefault(request_id, _Seen(when)).take(message)
        ends[request_id] = when
    begins = {
        key: request.first if request.took is None else ends[key] - request.took
        for key, request in seen.items()
    }
    known = {key: request for key, request in seen.items() if request.audio_seconds > 0}
    if not known:
        raise TrafficError(
            "No line of the log tells of a result; LOG_TRANSCRIPTS=true makes a server log them."
        )
    first = min(begins[key] for key in known)
    return sorted(
        Request(round(begins[key] - first, 3), request.audio_seconds, request.kind)
        for key, request in known.items()
    )


def _logged(line: str) -> tuple[float, str, str] | None:
    if line.lstrip().startswith("{"):
        try:
            values = json.loads(line)
        except ValueError:
            return None
        when, request_id = values.get("asctime"), values.get("request_id")
        message = values.get("message")
    elif (match := _LINE.search(line)) is not None:
        when, request_id, message = match.groups()
    else:
        return None
    if not (when and request_id and message):
        return None
    return datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp(), request_id, message


def _main(
    log: Annotated[Path, typer.Argument(help="Log of a server that ran with LOG_TRANSCRIPTS=true.")],
    output: Annotated[Path, typer.Argument(help="File that the traffic is written to, as JSON lines.")],
) -> None:
    """Make a recording of traffic of a server's log."""
    try:
        requests = from_log(log.read_text("utf-8", errors="replace").splitlines())
    except TrafficError as error:
        raise typer.BadParameter(str(error)) from error
    write_traffic(requests, output)
    typer.echo(
        f"{len(requests)} requests, {sum(each.audio_seconds for each in requests) / 3600:.1f} h of audio"
    )


if __name__ == "__main__":
    typer.run(_main)
