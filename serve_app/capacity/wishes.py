"""What is asked of a plan, and what a plan is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.capacity.needs import Need


class CannotPlan(Exception):
    """What is wanted does not fit; the message has the arithmetic."""


class CannotCount(CannotPlan):
    """There is nothing to plan a model with, on whatever machine."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be carried, and on what.

    Attributes:
        gpu: bytes with which each GPU is sold; 0: there is none.
        gpus: how many, in one machine.
        cores: of the CPU; ``None``: as many as it takes.
        streams: live sessions at once, in 2pass: partial texts, and finals by the offline model.
        files_rtfx: seconds of recordings in a second, beside them.
        models: recognizers, by names of the catalogue. The first one carries all this. Empty: what
            ``ENABLED_MODELS=auto`` takes.
    """

    gpu: int = 0
    gpus: int = 0
    cores: float | None = None
    streams: int = 0
    files_rtfx: float = 0.0
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A deployment of a plan.

    Attributes:
        name: of the deployment.
        replicas: how many at most.
        cores: ``num_cpus`` of each.
        share: ``num_gpus`` of each; 0: it is on the CPU.
        need: what each needs of a GPU.
        carries: what is asked of all of them, and what they are good for, in words.
        config: ``user_config``.
        scales: whether there are fewer while there is less to do.
    """

    name: str
    replicas: int = 1
    cores: float = 0.0
    share: float = 0.0
    need: Need | None = None
    carries: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    scales: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a wish comes to. ``memory``: bytes that programs have of each GPU; ``args``: settings."""

    wish: Wish
    memory: int
    stages: tuple[Stage, ...]
    args: Mapping[str, Any]

    @property
    def cores(self) -> float:
        """Of the CPU, at the largest number of replicas."""
        return math.fsum(stage.cores * stage.replicas for stage in self.stages)

    @property
    def shares(self) -> float:
        """Of GPUs, likewise."""
        return math.fsum(stage.share * stage.replicas for stage in self.stages)
