"""What recorded live sessions say about a server. All times are seconds.

The names are those of FunASR's own realtime benchmark:

* **first_update**: from the first audio to the first result.
* **final_after_stop**: from the end of the audio to the acknowledgment that follows the last result. The end
  is when the last packet was due, so a server that makes its clients wait gains nothing.
* **response lag**: how much later a result came than the same result, alone on the same idle server, for
  the same clip. FunASR's benchmark relies on a time stamp in the reply, which its WebSocket server does not
  send; this can be measured on any server from outside. Results are matched by the number of characters so
  far, since a server under load may put two increments into one.

One more is not FunASR's. **emission delay**: from the end of a spoken character to the increment that shows
it. Of this the model itself needs 0.3 to 0.9 s with chunks of 600 ms and 300 ms of look-ahead.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from benchmarks.live_clients import Clip, Kind, SessionRun

_KINDS: tuple[Kind, Kind] = ("partial", "final")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 95th percentile; ``nan`` where there was nothing to measure."""

    p50: float
    p95: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        numbers = [*values]
        if not numbers:
            return cls(float("nan"), float("nan"))
        p50, p95 = np.percentile(numbers, (50, 95))
        return cls(float(p50), float(p95))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a server must keep to carry its sessions. Seconds; ``text`` is a share."""

    lag: float = 0.6
    final: float = 2.0
    text: float = 0.98


@dataclass(frozen=True, slots=True)
class Step:
    """One number of sessions on one server.

    ``text`` is the number of characters as a share of what the same clips gave alone: less than 1 means that
    something was dropped. ``cer`` is the character error rate against the known texts. Where the weights are
    random, it and ``emission_delay`` are ``None``. ``sent_late`` is the worst delay of a client's packet.
    ``cores`` is how many the server kept busy.
    """

    sessions: int
    first_update: Spread
    final_after_stop: Spread
    lag: Spread
    emission_delay: Spread | None
    text: float
    cer: float | None
    sent_late: float
    cores: float
    errors: tuple[str, ...]

    def carried(self, bounds: Bounds) -> bool:
        """Whether the server kept up with all sessions and lost nothing."""
        return (
            not self.errors
            and self.lag.p95 <= bounds.lag
            and self.final_after_stop.p95 <= bounds.final
            and self.text >= bounds.text
        )


def summarize(
    sessions: int,
    runs: Sequence[SessionRun],
    alone: Mapping[int, SessionRun],
    clips: Sequence[Clip],
    *,
    cores: float,
    random_weights: bool,
) -> Step:
    """The figures of one step. ``alone`` holds, for each clip, its run on the idle server."""
    whole = [run for run in runs if run.ended is not None]
    heard = sum(len(spoken(run)) for run in whole)
    expected = sum(len(spoken(alone[run.clip])) for run in whole)
    return Step(
        sessions=sessions,
        first_update=Spread.of(run.updates[0].at for run in runs if run.updates),
        final_after_stop=Spread.of(run.ended - run.seconds for run in whole if run.ended is not None),
        lag=Spread.of(lag for run in runs for lag in lags(run, alone[run.clip])),
        emission_delay=None
        if random_weights
        else Spread.of(delay for run in whole for delay in emission_delays(run, clips[run.clip])),
        text=heard / expected if expected else float("nan"),
        cer=None if random_weights else error_rate(whole, clips),
        sent_late=max((run.sent_late for run in runs), default=0.0),
        cores=cores,
        errors=tuple(sorted({run.error for run in runs if run.error})),
    )


def lags(run: SessionRun, alone: SessionRun) -> list[float]:
    """How much later each result of ``run`` came than the same amount of text came in ``alone``."""
    result: list[float] = []
    for kind in _KINDS:
        counts, times = _timeline(alone, kind)
        if not counts:
            continue
        for count, at in zip(*_timeline(run, kind), strict=True):
            result.append(at - times[min(bisect_left(counts, count), len(times) - 1)])
    return result


def _timeline(run: SessionRun, kind: Kind) -> tuple[list[int], list[float]]:
    """The number of characters so far after each result of that kind, and when it came."""
    updates = [update for update in run.updates if update.kind == kind]
    counts = accumulate(len(_characters(update.text)) for update in updates)
    return [*counts], [update.at for update in updates]


def spoken(run: SessionRun) -> str:
    """The characters of a session without marks: its finals, or its increments where it has no finals."""
    return _characters(run.text("final") or run.text("partial"))


def _characters(text: str) -> str:
    return "".join(character for character in text.replace("<unk>", "") if character.isalnum())


def emission_delays(run: SessionRun, clip: Clip) -> list[float]:
    """For each character that an increment got right: how long after its end the increment came."""
    from starter.alignment import align

    shown: list[tuple[str, float]] = []
    for update in run.updates:
        if update.kind == "partial":
            shown += [(character, update.at) for character in _characters(update.text)]
    _, kept = align(clip.text, "".join(character for character, _ in shown))
    return [shown[there][1] - clip.ends[here] for here, there in kept]


def error_rate(runs: Sequence[SessionRun], clips: Sequence[Clip]) -> float:
    """Character error rate of all sessions together, as a share of the characters spoken."""
    # It belongs to the extra `train`, as do the clips with known texts.
    from starter.alignment import align

    characters = sum(len(clips[run.clip].text) for run in runs)
    errors = sum(align(clips[run.clip].text, spoken(run))[0] for run in runs)
    return errors / characters if characters else float("nan")


def sessions_carried(steps: Sequence[Step], bounds: Bounds) -> int:
    """The greatest number of sessions up to which every step was carried; 0 if not even the first was."""
    carried = 0
    for step in sorted(steps, key=lambda step: step.sessions):
        if not step.carried(bounds):
            break
        carried = step.sessions
    return carried
