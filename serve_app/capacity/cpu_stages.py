"""The stages of a plan that are on the CPU."""

import math
from collections.abc import Iterator

from serve_app.capacity import rates
from serve_app.capacity.rates import TARGET_BUSY, Rate
from serve_app.capacity.wanted_models import PARAFORMER, WantedModels
from serve_app.capacity.wishes import Stage, Wish

_QUARTERS = 4
_WIDEST_CORES = 8
_SPEAKER_REPLICAS = 4
_SPARE_STREAMS = 1.25
_STREAM_STEP = 16


def always(wish: Wish, models: WantedModels) -> Iterator[Stage]:
    """What is on the CPU with a GPU as well, because it has little to compute."""
    yield _ingress(wish)
    yield Stage("Jobs", carries="recordings that nobody waits for, behind everything else")
    yield _light("Vad", wish.files_rtfx + rates.LIVE_VAD_FACTOR * wish.streams, rates.VAD_CORE)
    if PARAFORMER in models.kinds:
        # Live text is seen twice: as partial text, and in the final.
        words = wish.files_rtfx + 2 * wish.streams if models.lead == PARAFORMER else 0.0
        yield _light("Punctuation", words, rates.PUNCTUATION_CORE)


def recognition(wish: Wish) -> Iterator[Stage]:
    """What a machine without a GPU recognizes with."""
    seconds, rate = wish.files_rtfx + wish.streams, rates.PARAFORMER_CORE
    replicas = _least(seconds, rate.planned)
    yield Stage("Paraformer", replicas, 1, carries=_of(seconds, replicas, rate), scales=replicas > 1)
    cores = _least(wish.streams, rates.STREAMING_CORE.value)
    replicas = _least(cores, _WIDEST_CORES)
    yield Stage(
        "ParaformerStreaming",
        replicas,
        math.ceil(cores / replicas),
        carries=_of(wish.streams, cores, rates.STREAMING_CORE),
        config={"max_streams": streams_of_each(wish, replicas)},
    )
    yield speakers()


def speakers() -> Stage:
    """Reserves nothing: it is only busy where speakers are told apart."""
    up_to = _of(0, _SPEAKER_REPLICAS, rates.SPEAKER_CORE).removeprefix("0 of ")
    carries = f"where speakers are told apart: up to {up_to}"
    return Stage("SpeakerEmbedding", _SPEAKER_REPLICAS, carries=carries, scales=True)


def streams_of_each(wish: Wish, replicas: int) -> int:
    """``max_streams`` of each replica of ParaformerStreaming: hashing does not share them out evenly."""
    return _STREAM_STEP * _least(_SPARE_STREAMS * wish.streams / replicas, _STREAM_STEP)


def sessions_of_each(wish: Wish, replicas: int) -> int:
    """``MAX_LIVE_SESSIONS`` of each ingress."""
    return max(8, math.ceil(_SPARE_STREAMS * wish.streams / replicas))


def _ingress(wish: Wish) -> Stage:
    sessions, files = rates.INGRESS_SESSIONS, rates.INGRESS_FILES
    # What was carried was carried: nothing is taken off.
    cores = wish.streams / sessions.value + wish.files_rtfx / files.planned
    replicas = _least(cores, 1)
    carries = f"{_of(wish.streams, replicas, sessions)}; {_of(wish.files_rtfx, replicas, files)}"
    return Stage("Ingress", replicas, _quarters(cores / replicas), carries=carries, scales=replicas > 1)


def _light(name: str, seconds: float, rate: Rate) -> Stage:
    replicas = _least(seconds, rate.planned)
    cores = _quarters(seconds / rate.planned / replicas)
    return Stage(name, replicas, cores, carries=_of(seconds, replicas, rate), scales=replicas > 1)


def _quarters(cores: float) -> float:
    return max(1, math.ceil(_QUARTERS * cores - 1e-9)) / _QUARTERS


def _least(amount: float, each: float) -> int:
    return max(1, math.ceil(amount / each - 1e-9))


def _of(amount: float, count: int, rate: Rate) -> str:
    unit = "sessions" if rate.unit == "sessions" else "s of audio a second"
    return f"{amount:g} of {count * rate.value:g} {unit} ({rate.origin})"


def spelled(amount: float, gpus: int, rate: Rate) -> str:
    """What is asked of so many GPUs, by what they are good for."""
    return _of(amount, gpus, rate)


def sets_for(work: float) -> int:
    """How many GPUs keep to :data:`~serve_app.capacity.rates.TARGET_BUSY` with so much work, in GPUs."""
    return _least(work, TARGET_BUSY)
