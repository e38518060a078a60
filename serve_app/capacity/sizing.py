"""From what is wanted to deployments: how many replicas of each, on what, and what that carries."""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.capacity import cpu_stages, rates
from serve_app.capacity.budget import least_share
from serve_app.capacity.cards import GIB, gib, sold_as
from serve_app.capacity.needs import MIB, Need, needs
from serve_app.capacity.packing import fits_in_any_order
from serve_app.capacity.rates import TARGET_BUSY, Rate
from serve_app.capacity.wanted_models import PARAFORMER, QWEN3, WantedModels
from serve_app.capacity.wishes import CannotCount, CannotPlan, Plan, Stage, Wish
from serve_app.capacity.written import WrittenSettings

_FILES, _CHUNKS, _SPEECH = "files and finals", "live chunks", "files and live speech"
_CONCURRENT_FILES = 64
_PARTS = 1_000_000
_BATCH_SECONDS = 240
_FEW_STREAMS = 16
_CACHE_STEP = GIB // 2
_MOST_CACHE = {"qwen3-asr-0.6b": 12 * GIB, "qwen3-asr-1.7b": 32 * GIB}
_VLLM_FILLS = 0.92
"""Share of a whole GPU that vLLM fills at most."""
_NOBODYS = 0.02


def plan(wish: Wish) -> Plan:
    """The smallest set of replicas that carries what is wanted.

    Raises:
        CannotPlan: it does not fit, or there is no figure to plan a model with.
    """
    models = WantedModels(wish)
    on_gpus = _OnGpus(wish, models) if wish.gpus else None
    stages = (
        *cpu_stages.always(wish, models),
        *(cpu_stages.recognition(wish) if on_gpus is None else on_gpus.stages()),
    )
    ingresses = next(stage.replicas for stage in stages if stage.name == "Ingress")
    limits = {
        "max_live_sessions": cpu_stages.sessions_of_each(wish, ingresses),
        "max_concurrent_files": _CONCURRENT_FILES,
    }
    chosen = {} if on_gpus is None else on_gpus.chosen
    made = Plan(wish, sold_as(wish.gpu) if wish.gpus else 0, stages, {**models.args, **chosen, **limits})
    if wish.cores is not None and made.cores > wish.cores:
        listed = " + ".join(f"{each.name} {each.replicas} x {each.cores:g}" for each in stages if each.cores)
        raise CannotPlan(f"This takes {made.cores:g} cores ({listed}), and there are {wish.cores:g}.")
    return made


def nearest(wish: Wish) -> Wish | None:
    """The largest part of what is wanted that fits; ``None``: not even nothing does."""

    def part(parts: int) -> Wish:
        files = math.floor(wish.files_rtfx * parts / _PARTS)
        return replace(wish, streams=wish.streams * parts // _PARTS, files_rtfx=files)

    # More is never easier: the first part that is too large is found by halving.
    large = bisect.bisect_left(range(_PARTS), True, key=lambda parts: not _is_possible(part(parts)))
    return part(large - 1) if large else None


def enough_gpus(wish: Wish, most: int = 16) -> int | None:
    """How many such GPUs would do; ``None``: no number up to ``most``, or there are none."""
    if not wish.gpus:
        return None
    counts = range(wish.gpus + 1, most + 1)
    return next((count for count in counts if _is_possible(replace(wish, gpus=count))), None)


def single_models(wish: Wish) -> list[Wish]:
    """The same with one of the recognizers only, where that fits."""
    names = WantedModels(wish).kinds.values()
    alone = [replace(wish, models=(name,)) for name in names] if len(names) > 1 else []
    return [each for each in alone if _is_possible(each)]


def _is_possible(wish: Wish) -> bool:
    try:
        plan(wish)
    except CannotPlan:
        return False
    return True


class _OnGpus:
    """The stages that are on GPUs: a set of small ones on each that they share, and Qwen3-ASR.

    Of one GPU, Qwen3-ASR has the rest. Of several, it has whole ones, since Ray does not promise that the
    small ones leave room on a particular one (see :func:`~serve_app.capacity.packing.place`).
    """

    def __init__(self, wish: Wish, models: WantedModels) -> None:
        self.chosen: dict[str, Any] = {}
        self._wish, self._models = wish, models
        self._memory = sold_as(wish.gpu)
        self._alone = QWEN3 in models.kinds and wish.gpus > 1
        # The recognizer that carries the load has all that the other one can spare.
        self._whole = (wish.gpus - 1 if models.lead == QWEN3 else 1) if self._alone else 0
        self._small = wish.gpus - self._whole
        self._work = self._parts_of_work()

    def stages(self) -> Iterator[Stage]:
        work = math.fsum(amount / rate.value for amount, rate in self._work.values())
        have = self._whole if self._alone and self._models.lead == QWEN3 else self._small
        if work > TARGET_BUSY * have + 1e-9:
            parts = (f"{what} {load:g} / {rate.value:g}" for what, (load, rate) in self._work.items())
            raise CannotPlan(
                f"The work takes {work:.2f} GPUs ({' + '.join(parts)}). There {'is' if have == 1 else 'are'} "
                f"{have} for it, and plans keep each to {TARGET_BUSY:g} busy: {TARGET_BUSY * have:.1f}."
            )
        sets = cpu_stages.sets_for(work) if self._models.lead == PARAFORMER else 1
        shared = list(self._shared(sets))
        if not self._fit(shared):
            # It has little to compute, and half a gigabyte is CUDA's for every process.
            shared = [stage for stage in shared if stage.name != "SpeakerEmbedding"]
            shared.append(cpu_stages.speakers())
        if not self._fit(shared):
            raise CannotPlan(self._too_full(shared))
        yield from shared
        if QWEN3 in self._models.kinds:
            yield self._qwen3(math.fsum(stage.share * stage.replicas for stage in shared))

    def _parts_of_work(self) -> dict[str, tuple[float, Rate]]:
        streams, files = self._wish.streams, self._wish.files_rtfx
        if self._models.lead == QWEN3:
            return {_SPEECH: (files + rates.LIVE_STEP_FACTOR * streams, self._qwen3_rate())}
        return {
            _FILES: (files + streams, rates.paraformer_gpu(self._memory)),
            _CHUNKS: (float(streams), rates.streaming_gpu(self._memory)),
        }

    def _needs(self, streams: int = _FEW_STREAMS) -> Mapping[str, Need]:
        settings = WrittenSettings(**self._models.args, **self.chosen)
        return needs(settings, {"ParaformerStreaming": {"max_streams": streams}})

    def _shared(self, sets: int) -> Iterator[Stage]:
        streams = cpu_stages.streams_of_each(self._wish, sets)
        need = self._needs(streams)

        def stage(name: str, carries: str, replicas: int = 1, **config: int) -> Stage:
            share = least_share(need[name], self._memory)
            return Stage(name, replicas, 0, share, need[name], carries, config)

        if PARAFORMER in self._models.kinds:
            yield stage("Paraformer", self._carried(_FILES, sets), sets, max_batch_seconds=_BATCH_SECONDS)
            yield stage("ParaformerStreaming", self._carried(_CHUNKS, sets), sets, max_streams=streams)
        if QWEN3 in self._models.kinds:
            yield stage("Qwen3Aligner", "times of words of Qwen3-ASR: no figure is known")
        yield stage("SpeakerEmbedding", "where speakers are told apart: no figure is known")

    def _carried(self, what: str, gpus: int) -> str:
        if what not in self._work:
            return "requests that name it"
        return cpu_stages.spelled(self._work[what][0], gpus, self._work[what][1])

    def _fit(self, shared: Sequence[Stage]) -> bool:
        shares = [stage.share for stage in shared for _ in range(stage.replicas) if stage.share]
        if QWEN3 in self._models.kinds and not self._whole:
            shares.append(least_share(self._needs()["Qwen3ASR"], self._memory) + _NOBODYS)
        return max(shares, default=0) <= 1 and fits_in_any_order(shares, self._small)

    def _too_full(self, shared: Sequence[Stage]) -> str:
        lines = [f"  {stage.name}, {stage.replicas} x: {stage.need}" for stage in shared if stage.share]
        if QWEN3 in self._models.kinds and not self._whole:
            lines.append(f"  Qwen3ASR, 1 x: {self._needs()['Qwen3ASR']}")
        have = "one GPU" if self._small == 1 else f"{self._small} GPUs"
        head = f"The models do not fit {have} of {gib(self._memory)} GB in whatever order they start:"
        return "\n".join((head, *lines))

    def _qwen3(self, taken: float) -> Stage:
        """With the rest of the GPU as its cache."""
        least = self._needs()["Qwen3ASR"]
        cache = next(part.size for part in least.parts if part.what == "cache")
        free = _VLLM_FILLS if self._whole else 1 - taken - _NOBODYS
        room = free * self._memory - (least.total - cache)
        most = min(room, _MOST_CACHE.get(self._models.kinds[QWEN3], room))
        size = max(math.ceil(cache / MIB), int(most // _CACHE_STEP) * (_CACHE_STEP // MIB))
        self.chosen["qwen3_memory"] = f"{size}MB"
        need, gpus = self._needs()["Qwen3ASR"], max(1, self._whole)
        share = 1.0 if self._whole else least_share(need, self._memory)
        carries = self._carried(_SPEECH, gpus)
        if self._models.lead != QWEN3:
            up_to = cpu_stages.spelled(0, gpus, self._qwen3_rate()).removeprefix("0 of ")
            carries = f"requests that name it: up to {up_to}, if nothing else is done"
        return Stage("Qwen3ASR", gpus, 1, share, need, carries)

    def _qwen3_rate(self) -> Rate:
        name = self._models.kinds[QWEN3]
        try:
            return rates.qwen3_gpu(name, self._memory)
        except KeyError:
            raise CannotCount(
                f"There are no figures to plan {name} with: take qwen3-asr-0.6b or qwen3-asr-1.7b."
            ) from None
