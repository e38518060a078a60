"""The speaker model's training loop: resumable, within a wall-clock budget, on several processes."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from starter.augment import Samples
from starter.campplus_data import Clips, make_clips, open_clips, window_features
from starter.campplus_model import THRESHOLD, MarginClassifier, build, export
from starter.campplus_speakers import Speaker, development_speakers, training_speakers
from starter.campplus_trials import Clip, Scores, score, spoken, voice_scores, with_noise
from starter.data_parallel import average_gradients, launch
from starter.registry import TrainOptions, save_facts

_CROPS_PER_PROCESS = 32
_PEAK_RATE, _LAST_RATE, _WARMUP_STEPS, _WEIGHT_DECAY = 2.5e-3, 1e-5, 150, 2e-2
_MARGIN, _MARGIN_BEGINS, _MARGIN_FULL = 0.25, 0.10, 0.45
"""The margin grows between these shares of the budget; with all of it at once nothing is learned."""
_AVERAGE_DECAY = 0.995
_CHECK_SECONDS = 180.0
_USABLE_ERROR = 0.20
_DEVELOPMENT_CLIPS = 8

Average = dict[str, torch.Tensor]


@dataclass
class _State:
    """What a checkpoint holds besides weights: where the training stands."""

    step: int = 0
    seconds: float = 0.0


class Run:
    """One process of the training. `average` is what is exported: the weights' running mean."""

    def __init__(self, rank: int, processes: int, options: TrainOptions, clips: Clips) -> None:
        torch.manual_seed(options.seed)
        self.rank, self.options, self.clips = rank, options, clips
        self.speakers = int(clips.speakers.max()) + 1
        self.model = torch.nn.ModuleDict({"network": build(), "classifier": MarginClassifier(self.speakers)})
        self.optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=_WEIGHT_DECAY)
        self.average: Average = {name: value.clone() for name, value in self._network_state().items()}
        self.state = _State()
        self.checkpoint = options.work / "checkpoint.pt"
        capabilities = torch.cpu.get_capabilities()
        self.low_precision = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        self._resume()
        self.batches = clips.batches(_CROPS_PER_PROCESS, options.seed + self.state.step, rank, processes)

    def step(self, seconds: float) -> tuple[float, float, float]:
        """One update; returns its loss and accuracy here, and rank 0's clock, on which all agree."""
        mel, speakers = next(self.batches)
        done = self.state.seconds / (60 * self.options.minutes)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low_precision):
            embeddings = self.model["network"](mel)
        loss, right = self.model["classifier"](embeddings.float(), speakers, _margin(done))
        self.optimizer.zero_grad()
        loss.backward()
        clock = average_gradients(self.model, seconds * dist.get_world_size() if self.rank == 0 else 0.0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.state.step, done)
        self.optimizer.step()
        self.state.step += 1
        self.state.seconds = clock
        if self.rank == 0:
            self._update_average()
        return float(loss.detach()), float(right), clock

    def save(self) -> None:
        partial = self.checkpoint.with_suffix(".partial")
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "state": vars(self.state),
        }
        torch.save(saved, partial)
        partial.replace(self.checkpoint)

    def _network_state(self) -> Average:
        state: Average = self.model["network"].state_dict()
        return state

    def _update_average(self) -> None:
        decay = min(_AVERAGE_DECAY, (1 + self.state.step) / (10 + self.state.step))
        for name, value in self._network_state().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        saved: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average = saved["average"]
        self.state = _State(**saved["state"])


def train_speakers(options: TrainOptions) -> None:
    """Synthesize what is missing, train until the budget is spent, export the averaged weights."""
    data = options.work / "data"
    make_clips(data, options.seed, options.processes)
    options.output.mkdir(parents=True, exist_ok=True)
    launch(run_process, options.processes, options, data, development_speakers(options.seed))


def _margin(done: float) -> float:
    return _MARGIN * min(1.0, max(0.0, (done - _MARGIN_BEGINS) / (_MARGIN_FULL - _MARGIN_BEGINS)))


def _learning_rate(step: int, done: float) -> float:
    """Linear warm-up by steps, then half a cosine over the time budget (`done` 0 to 1)."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (_LAST_RATE + (_PEAK_RATE - _LAST_RATE) * cosine)


def _development_clips(speakers: list[Speaker], seed: int) -> list[Clip]:
    """Clips of development speakers, half of them noisy."""
    clean = spoken(speakers, "dev", _DEVELOPMENT_CLIPS, seed)
    half = len(clean) // 2
    order = np.random.default_rng(seed).permutation(len(clean))
    mixed = [clean[row] for row in order[:half]]
    return mixed + with_noise([clean[row] for row in order[half:]], seed)


def _development_scores(average: Average, clips: list[Clip]) -> tuple[Scores, Scores]:
    """By the averaged weights: windows of 1.5 s against each other, and the voices of whole clips."""
    network = build().eval()
    network.load_state_dict(average)

    def embed(samples: Samples) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(window_features(samples))[0].numpy(), np.float32)

    return score(embed, clips, windows=True), voice_scores(embed, clips)


def _facts(run: Run, scores: Scores, threshold: float) -> dict[str, str | int | float]:
    drawn = sum(bool(speaker.variant_file) for speaker in training_speakers(run.options.seed))
    return {
        "speakers": run.speakers,
        "speakers with a drawn variant": drawn,
        "clips": len(run.clips.speakers),
        "hours of speech": round(run.clips.hours, 1),
        "parameters": sum(weight.numel() for weight in run.model["network"].parameters()),
        "training minutes": round(run.state.seconds / 60, 1),
        "processes of one thread": run.options.processes,
        "updates": run.state.step,
        "seed": run.options.seed,
        "EER of 1.5 s windows of development speakers (%)": round(100 * scores.equal_error_rate(), 2),
        THRESHOLD: round(threshold, 3),
    }


def _check(run: Run, clips: list[Clip], console: Console) -> None:
    """Save, measure the averaged weights, and put them out if they are usable."""
    run.save()
    scores, voices = _development_scores(run.average, clips)
    error, same, different = scores.equal_error_rate(), scores.same.mean(), scores.different.mean()
    console.log(
        f"{run.state.seconds / 60:5.1f} min, step {run.state.step}: development windows: "
        f"EER {100 * error:.1f} %, mean cosine of one speaker {same:.2f}, of two {different:.2f}"
    )
    if error < _USABLE_ERROR:
        export(run.options.output, run.average, voices.threshold())
        save_facts(run.options.output, _facts(run, scores, voices.threshold()))


def run_process(
    rank: int, processes: int, options: TrainOptions, data: Path, speakers: list[Speaker]
) -> None:
    """One process of the training, for `launch`; `speakers` are those of development."""
    parent = os.getppid()
    run = Run(rank, processes, options, open_clips(data))
    development = _development_clips(speakers, options.seed) if rank == 0 else []
    dist.barrier()
    begun = time.monotonic() - run.state.seconds
    checked, console, budget = time.monotonic(), Console(), 60 * options.minutes
    with Progress(
        TextColumn("training"), BarColumn(), TextColumn("{task.fields[status]}"), TimeElapsedColumn(),
        console=console, disable=rank != 0,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=budget, completed=int(run.state.seconds), status="")
        loss, right, clock = 0.0, 0.0, run.state.seconds
        while clock < budget:
            new_loss, new_right, clock = run.step(time.monotonic() - begun)
            loss, right = 0.95 * loss + 0.05 * new_loss, 0.95 * right + 0.05 * new_right
            status = f"step {run.state.step}, loss {loss:.2f}, {100 * right:.0f} % right"
            progress.update(task, completed=clock, status=status)
            if os.getppid() != parent:
                raise RuntimeError("the process that started this training is gone")
            if rank == 0 and clock < budget and time.monotonic() - checked > _CHECK_SECONDS:
                _check(run, development, console)
                checked = time.monotonic()
    if rank == 0:
        _check(run, development, console)
    dist.barrier()
