"""The recognizer's training loop: resumable, within a wall-clock budget, on several processes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from funasr.models.paraformer.model import Paraformer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from starter.data_parallel import average_gradients, launch
from starter.paraformer_batches import Batch, Batcher, Cache, Variation, merge_shards, open_cache, statistics
from starter.paraformer_data import TOKENS, make_shards
from starter.paraformer_loss import Losses, losses
from starter.paraformer_model import build, export
from starter.paraformer_positions import RandomPositions
from starter.paraformer_testsets import DevSet, greedy, make_dev_set
from starter.registry import TrainOptions, save_facts

_FRAMES_PER_BATCH = 900
_LAST_RATE, _WARMUP_STEPS = 2e-5, 250
_AVERAGE_DECAY = 0.998
_DROPOUT_SHARE = 0.75
"""Share of the budget with dropout. It shifts the mean of the CIF weights, and with that the count of
tokens, so the last part is trained the way the model is used."""
_CHECK_SECONDS = 150.0
_USABLE_CER = 0.20


Statistics = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and standard deviation of the stacked features, float32 [560] each."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs from one recognizer to another; all of it functions of a module, for other processes.

    build: the model with its first weights and a CTC head. statistics: for normalizing. losses: model, batch
    and whether to compute in bf16. transcribe: the text of features [1, frames, 560], by a model in
    evaluation mode. export: writes a model directory from weights and statistics. peak_rate: of learning.
    """

    build: Callable[[], Paraformer]
    statistics: Callable[[Cache], Statistics]
    losses: Callable[[Paraformer, Batch, bool], Losses]
    transcribe: Callable[[Paraformer, torch.Tensor], str]
    export: Callable[[Path, dict[str, torch.Tensor], NDArray[np.float32], NDArray[np.float32]], None]
    peak_rate: float
    vary: Variation | None = None


@dataclass
class _State:
    """What a checkpoint holds besides weights: where the training stands."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0


def _learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up by steps, then half a cosine over the time budget (`progress` 0 to 1)."""
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (_LAST_RATE + (peak - _LAST_RATE) * cosine)


class _Run:
    """One process of the training."""

    def __init__(self, rank: int, processes: int, recipe: Recipe, options: TrainOptions, data: Path) -> None:
        torch.manual_seed(options.seed)
        self.rank, self.recipe, self.options = rank, recipe, options
        self.model = recipe.build()
        self.model.encoder.embed = RandomPositions()
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.98), eps=1e-8)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.state = _State()
        self.cache = open_cache(data)
        self.mean, self.deviation = recipe.statistics(self.cache)
        self.checkpoint = options.work / "checkpoint.pt"
        capabilities = torch.cpu.get_capabilities()
        self.low_precision = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        self._resume()
        torch.manual_seed(options.seed + 1000 * self.state.step + rank)
        self.batcher = Batcher(
            self.cache,
            self.mean,
            self.deviation,
            seed=options.seed + self.state.step,
            frames=_FRAMES_PER_BATCH,
            rank=rank,
            processes=processes,
            vary=recipe.vary,
        )

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average = saved["average"]
        self.mean, self.deviation = saved["mean"].numpy(), saved["deviation"].numpy()
        self.state = _State(**saved["state"])

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "mean": torch.from_numpy(self.mean),
            "deviation": torch.from_numpy(self.deviation),
            "state": vars(self.state),
        }
        torch.save(saved, partial)
        partial.rename(self.checkpoint)

    def step(self, batch: Any, seconds: float) -> tuple[Losses, float]:
        """One update; returns this process's losses and rank 0's clock, on which all processes agree."""
        terms = self.recipe.losses(self.model, batch, self.low_precision)
        self.optimizer.zero_grad()
        terms.total.backward()
        clock = average_gradients(self.model, seconds * dist.get_world_size() if self.rank == 0 else 0.0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        rate = _learning_rate(self.recipe.peak_rate, self.state.step, clock / (60 * self.options.minutes))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.state.step += 1
        if clock > _DROPOUT_SHARE * 60 * self.options.minutes:
            for module in self.model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        decay = min(_AVERAGE_DECAY, (1 + self.state.step) / (10 + self.state.step))
        if self.rank == 0:
            for key, value in self.model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return terms, clock


def _facts(run: _Run, cer: float) -> dict[str, str | int | float]:
    return {
        "clips": len(run.cache),
        "hours of speech and pauses": round(run.cache.seconds / 3600, 1),
        "characters": len(TOKENS) - 4,
        "parameters": sum(run.average[key].numel() for key in run.average if key[:4] != "ctc."),
        "training minutes": round(run.state.seconds / 60, 1),
        "processes of one thread": run.options.processes,
        "updates": run.state.step,
        "passes over the data": run.state.epoch,
        "seed": run.options.seed,
        "CER on development sentences (%)": round(100 * cer, 2),
    }


def _check(run: _Run, dev: DevSet, console: Console, terms: Losses) -> float:
    """Save, measure the averaged weights, and put them out if they are usable."""
    run.save()
    scorer = run.recipe.build()
    scorer.load_state_dict(run.average)
    scorer.eval()
    cer, unseen = dev.score(partial(run.recipe.transcribe, scorer), run.mean, run.deviation)
    console.log(
        f"{run.state.seconds / 60:5.1f} min, step {run.state.step}, epoch {run.state.epoch}: "
        f"CER {100 * cer:.1f} %, unseen voices {100 * unseen:.1f} % "
        f"(loss: tokens {terms.attention:.2f}, frames {terms.frame:.2f}, timing {terms.timing:.2f})"
    )
    if cer < _USABLE_CER:
        run.recipe.export(run.options.output, run.average, run.mean, run.deviation)
        save_facts(run.options.output, _facts(run, cer))
    return cer


def _work(rank: int, processes: int, recipe: Recipe, options: TrainOptions, data: Path, dev: DevSet) -> None:
    parent = os.getppid()
    run = _Run(rank, processes, recipe, options, data)
    console = Console()
    begun = time.monotonic() - run.state.seconds
    checked = time.monotonic()
    cer = 1.0
    with Progress(
        TextColumn("training"), BarColumn(), TextColumn("{task.fields[status]}"), TimeElapsedColumn(),
        console=console, disable=rank != 0,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=options.minutes * 60, completed=int(run.state.seconds), status="")
        for epoch, batch in run.batcher.epochs(run.state.epoch):
            terms, clock = run.step(batch, time.monotonic() - begun)
            run.state.epoch, run.state.seconds = epoch, clock
            status = f"step {run.state.step}, loss {float(terms.total.detach()):.2f}, CER {100 * cer:.1f} %"
            progress.update(task, completed=clock, status=status)
            finished = clock >= options.minutes * 60
            if os.getppid() != parent:
                raise RuntimeError("the process that started this training is gone")
            if rank == 0 and (finished or time.monotonic() - checked > _CHECK_SECONDS):
                cer = _check(run, dev, console, terms)
                checked = time.monotonic()
            if finished:
                break
    dist.barrier()


def run_training(recipe: Recipe, options: TrainOptions, clips: Path) -> None:
    """Synthesize what is missing in the directory `clips`, then train until the budget is spent and export
    the averaged weights.
    """
    shards = make_shards(clips / "data", options.seed, options.processes + 1)
    merged = clips / "merged"
    merged.mkdir(parents=True, exist_ok=True)
    merge_shards(shards, merged)
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    launch(_work, options.processes, recipe, options, merged, make_dev_set(options.seed))


def _from_scratch() -> Paraformer:
    return build(ctc_weight=0.5)


def train_paraformer(options: TrainOptions) -> None:
    recipe = Recipe(_from_scratch, statistics, losses, greedy, export, peak_rate=1.2e-3)
    run_training(recipe, options, options.work)
