"""What trainings on one thread share: a loop with checkpoints and a progress bar, and the exported layout."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_CHECKPOINT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Schedule:
    """AdamW for `steps` steps: linear warm-up to `peak_rate`, then a cosine down to nothing."""

    steps: int
    peak_rate: float
    warmup: int
    weight_decay: float = 1e-2

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


def optimize(
    model: torch.nn.Module,
    loss_of_step: Callable[[int], torch.Tensor],
    schedule: Schedule,
    checkpoint: Path,
    name: str,
) -> float:
    """Train `model` in place and give the minutes that it took, those before an interruption included.

    loss_of_step: the loss on the batch of a step, the same batch whenever it is asked for that step.
    checkpoint: written every 100 steps; a training that finds one goes on from it.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.peak_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )
    step, spent = _resume(checkpoint, model, optimizer)
    model.train()
    begun = time.monotonic()
    with progress_bar() as progress:
        task = progress.add_task(name, total=schedule.steps, completed=step)
        while step < schedule.steps:
            loss = loss_of_step(step)
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            progress.update(task, completed=step, description=f"{name} loss {loss.item():.3f}")
            if step % _CHECKPOINT_EVERY == 0 or step == schedule.steps:
                _save(checkpoint, model, optimizer, step, spent + (time.monotonic() - begun) / 60)
    model.eval()
    return spent + (time.monotonic() - begun) / 60


def write_model(
    model_dir: Path,
    state: dict[str, torch.Tensor],
    config: dict[str, Any],
    task: str,
    files: dict[str, dict[str, str]],
) -> None:
    """Write model.pt (float16), config.yaml and configuration.json as ModelScope lays a FunASR model out.

    files: what configuration.json says of the other files, {"frontend_conf": {"cmvn_file": "am.mvn"}}.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    torch.save({name: weight.half() for name, weight in state.items()}, model_dir / "model.pt")
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (model_dir / "config.yaml").write_text(text, "utf-8")
    layout = {
        "framework": "pytorch",
        "task": task,
        "model": {"type": "pytorch"},
        "file_path_metas": {"init_param": "model.pt", "config": "config.yaml", **files},
    }
    (model_dir / "configuration.json").write_text(json.dumps(layout, indent=2) + "\n", "utf-8")


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


def _save(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, minutes: float
) -> None:
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "minutes": minutes}, partial)
    partial.replace(path)


def _resume(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["minutes"])
