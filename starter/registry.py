"""What `python -m starter` needs to know of a model: where its module is, and what that module offers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

ROOT = Path(__file__).resolve().parent.parent
MODELS_DIR = ROOT / "models" / "starter"
BUILD_DIR = ROOT / "build" / "starter"
TRAINING_FACTS = "training.json"

_MODULES = {
    "paraformer": "starter.paraformer",
    "paraformer-streaming": "starter.paraformer_streaming",
    "paraformer-hotwords": "starter.seaco",
    "fsmn-vad": "starter.vad",
    "ct-punc": "starter.punctuation",
    "ct-punc-realtime": "starter.punctuation_realtime",
    "campplus": "starter.campplus",
    "qwen3-asr": "starter.qwen3_asr",
    "qwen3-forced-aligner": "starter.qwen3_forced_aligner",
}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train.

    output: directory that receives the finished model. work: directory for cached data and checkpoints;
    training killed half way goes on from there. minutes: wall-clock budget of the optimization. processes:
    data-parallel processes of one thread each. seed: fixes texts, voices, noise, initial weights and
    batches.
    """

    output: Path
    work: Path
    minutes: float
    processes: int
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: `value` in `unit` of `measure` on the test set; `target` such as "<= 4" ("" if
    none).
    """

    test_set: str
    measure: str
    value: float
    unit: str
    target: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None where there is none. Raises ValueError on a malformed target."""
        if not self.target:
            return None
        comparison, _, bound = self.target.partition(" ")
        if comparison not in ("<=", ">="):
            raise ValueError(f"not a target: {self.target!r}")
        return self.value <= float(bound) if comparison == "<=" else self.value >= float(bound)


class ModelModule(Protocol):
    """The interface of a module that trains one starter model.

    DEFAULT_MINUTES: its usual training budget. ABOUT: Markdown paragraphs of the model card (what the model
    is and what it was trained on). train: writes a complete model directory, with `save_facts`. evaluate:
    measures the model in a directory on held-out data, loading it as a service would; prints nothing.
    """

    DEFAULT_MINUTES: float
    ABOUT: str

    def train(self, options: TrainOptions) -> None: ...

    def evaluate(self, model_dir: Path) -> list[Row]: ...


def names() -> list[str]:
    return list(_MODULES)


def load(name: str) -> ModelModule:
    """The module of a model. Raises KeyError for an unknown name."""
    return cast(ModelModule, import_module(_MODULES[name]))


def save_facts(model_dir: Path, facts: dict[str, str | int | float]) -> None:
    """Keep what the card will say about the training ("utterances": 20000, "training minutes": 61.5, ...)."""
    (model_dir / TRAINING_FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")


def load_facts(model_dir: Path) -> dict[str, str | int | float]:
    path = model_dir / TRAINING_FACTS
    if not path.exists():
        return {}
    facts: dict[str, str | int | float] = json.loads(path.read_text("utf-8"))
    return facts


def rows_as_json(rows: list[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
