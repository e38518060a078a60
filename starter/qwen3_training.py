"""The training loop of the Qwen3 models: single-thread processes, averaged weights, checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

from starter.data_parallel import average_gradients, launch
from starter.qwen3_batches import Item, ItemSource
from starter.qwen3_data import Cache, make_shards, merge_shards, open_cache
from starter.qwen3_layout import write_directory
from starter.registry import TrainOptions, save_facts

_WARMUP = 300
_AVERAGE_DECAY = 0.997
_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """A batch's loss, and its parts for the log."""

    total: torch.Tensor
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs between the recognizer and the aligner.

    build: the untrained model. loss: of a batch, given the share of the training that is done. score: of an
    exported directory on development clips, less is better, with words for the log; the model is put out
    where it is below `usable`.
    """

    name: str
    aligner: bool
    build: Callable[[TrainOptions], nn.Module]
    loss: Callable[[nn.Module, list[Item], np.random.Generator, float], Terms]
    score: Callable[[Path, int], tuple[float, str]]
    score_name: str
    usable: float
    peak_rate: float
    batch_seconds: float
    check_seconds: float


@dataclass
class _State:
    step: int = 0
    seconds: float = 0.0
    best: float = math.inf


class _Run:
    """One of the training processes; all of them hold the same weights."""

    def __init__(self, rank: int, recipe: Recipe, options: TrainOptions, data: Path) -> None:
        self.rank, self.recipe, self.options = rank, recipe, options
        self.cache: Cache = open_cache(data)
        self.state = _State()
        self.model = recipe.build(options)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.checkpoint = options.work / "checkpoint.pt"
        if self.checkpoint.exists():
            saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average = saved["average"]
            self.state = _State(**saved["state"])
        self.rng = np.random.default_rng((options.seed, self.state.step, rank))
        self.batches = ItemSource(self.cache, self.rng).batch(recipe.batch_seconds)

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "state": vars(self.state),
        }
        torch.save(saved, partial)
        partial.rename(self.checkpoint)

    def step(self, seconds: float) -> tuple[Terms, float]:
        """One update; returns this process's loss and rank 0's clock, on which all processes agree."""
        done = min(1.0, self.state.seconds / (60 * self.options.minutes))
        terms = self.recipe.loss(self.model, next(self.batches), self.rng, done)
        self.optimizer.zero_grad()
        terms.total.backward()
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        clock = average_gradients(self.model, seconds * dist.get_world_size() if self.rank == 0 else 0.0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        rate = self.recipe.peak_rate * min(1.0, (self.state.step + 1) / _WARMUP)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.state.step += 1
        decay = min(_AVERAGE_DECAY, (1 + self.state.step) / (10 + self.state.step))
        if self.rank == 0:
            for key, value in self.model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        return terms, clock

    def facts(self, score: float) -> dict[str, str | int | float]:
        return {
            "clips": len(self.cache),
            "hours of speech and pauses": round(self.cache.seconds / 3600, 1),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "training minutes": round(self.state.seconds / 60, 1),
            "processes of one thread": self.options.processes,
            "updates": self.state.step,
            "seconds of audio in an update, at most": round(
                self.options.processes * self.recipe.batch_seconds
            ),
            "seed": self.options.seed,
            self.recipe.score_name: round(score, 2),
        }

    def check(self, console: Console) -> None:
        """Save, measure the averaged weights as they would ship, and put them out if they are the best."""
        self.save()
        candidate = self.options.work / "candidate"
        write_directory(candidate, self.average, aligner=self.recipe.aligner)
        score, words = self.recipe.score(candidate, self.options.seed)
        console.log(f"{self.state.seconds / 60:.1f} min, step {self.state.step}: {words}")
        if score < min(self.state.best, self.recipe.usable):
            self.state.best = score
            write_directory(self.options.output, self.average, aligner=self.recipe.aligner)
            save_facts(self.options.output, self.facts(score))
            self.save()


def _work(rank: int, processes: int, recipe: Recipe, options: TrainOptions, data: Path) -> None:
    parent = os.getppid()
    run = _Run(rank, recipe, options, data)
    console = Console(width=160)
    begun = time.monotonic() - run.state.seconds
    checked, sums = time.monotonic(), dict[str, float]()
    while True:
        terms, run.state.seconds = run.step(time.monotonic() - begun)
        for key, value in terms.parts.items():
            sums[key] = sums.get(key, 0.0) + value / 50
        if run.state.step % 50 == 0 and rank == 0:
            parts = ", ".join(f"{key} {value:.3f}" for key, value in sums.items())
            console.log(f"{run.state.seconds / 60:.1f} min, step {run.state.step}: {parts}")
            sums.clear()
        finished = run.state.seconds >= options.minutes * 60
        if os.getppid() != parent:
            raise RuntimeError("the process that started this training is gone")
        if rank == 0 and (finished or time.monotonic() - checked > recipe.check_seconds):
            run.check(console)
            checked = time.monotonic()
        if finished:
            break
    dist.barrier()


def run_training(recipe: Recipe, options: TrainOptions, clips: Path) -> None:
    """Synthesize what is missing in the directory `clips`, then train until the budget is spent."""
    merge_shards(make_shards(clips / "data", options.seed, options.processes + 1), clips / "merged")
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    launch(_work, options.processes, recipe, options, clips / "merged")
