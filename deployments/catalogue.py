"""The models that the service knows, from ``configs/models.yaml``: names, ids on the hubs, what they give."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

CATALOGUE = Path(__file__).resolve().parents[1] / "configs" / "models.yaml"
"""Delivered with the service: in the repository, and in an installed distribution beside its packages."""

Task = Literal[
    "asr",
    "asr-streaming",
    "vad",
    "punctuation",
    "punctuation-realtime",
    "speaker",
    "aligner",
    "timestamps",
    "language-model",
    "itn",
    "emotion",
    "keyword-spotting",
]
Backend = Literal["torch", "onnx", "vllm", "package"]
Gift = Literal[
    "word_times",
    "hotwords",
    "context",
    "language",
    "emotion",
    "events",
    "punctuation",
    "live",
    "spans",
    "voices",
]
"""``context``: plain text helps it; ``live``: it follows live speech; ``spans``: where somebody speaks;
``voices``: vectors that tell speakers apart."""

_TASKS: frozenset[str] = frozenset(get_args(Task))
_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
_ORGANIZATIONS = {"damo": "iic", "iic": "iic"}
"""ModelScope renamed the one to the other, and takes both."""


class CatalogueError(Exception):
    """A file with models cannot be used; the message names the file, the entry and the field."""


class ModelRefused(Exception):
    """A model of the catalogue cannot be used; the message says why, and what to use instead."""


def _text(value: Any) -> Any:
    # YAML reads `parameters: 220` and `license: 1.1` as numbers.
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]


class ModelEntry(BaseModel):
    """One model; ``configs/models.yaml`` tells what its fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    title: Text
    aliases: tuple[Text, ...] = ()
    task: Task
    engine: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")] | None = (
        None
    )
    modelscope: tuple[Text, ...] = ()
    huggingface: tuple[Text, ...] = ()
    onnx: tuple[Text, ...] = ()
    path: Text | None = None
    languages: tuple[Text, ...] = ()
    sample_rate: Annotated[int, Field(gt=0)] | None = None
    parameters: Text | None = None
    size_mb: Annotated[int, Field(gt=0)] | None = None
    license: Text = "see the model's page"
    backends: tuple[Backend, ...] = ()
    needs: tuple[Text, ...] = ()
    gives: tuple[Gift, ...] = ()
    planned: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.planned is None and self.engine is None:
            raise ValueError("engine: say what runs it, or say under `planned` why nothing does")
        if not (self.ids or self.path):
            raise ValueError("modelscope, huggingface or path: say where it is")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids on hubs under which this model is published, in each of its formats."""
        return (*self.modelscope, *self.huggingface, *self.onnx)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that mean this model: its own first."""
        return (self.name, *self.aliases)

    def check_usable(self) -> None:
        """Raise :class:`ModelRefused` if there is no engine for this model."""
        if self.planned is not None:
            raise ModelRefused(f"The model {self.name} cannot be used: {self.planned}")


class Catalogue:
    """Models by name, alias, id on a hub, and directory in the repository; in the order of their file."""

    def __init__(self, entries: Iterable[ModelEntry]) -> None:
        """Several entries may be for one id or directory, which then means the first of them.

        Raises:
            CatalogueError: two entries have a name in common, or one needs what is not there.
        """
        self._entries = tuple(entries)
        self._by_reference: dict[str, ModelEntry] = {}
        for entry in self._entries:
            for name in map(_normalized, entry.names):
                other = self._by_reference.setdefault(name, entry)
                if other is not entry:
                    raise CatalogueError(f"{name!r} means both the model {other.name} and {entry.name}")
        for entry in self._entries:
            for place in filter(None, (*entry.ids, entry.path)):
                self._by_reference.setdefault(_normalized(place), entry)
        for entry in self._entries:
            for need in entry.needs:
                if need not in _TASKS and self.find(need) is None:
                    raise CatalogueError(f"model {entry.name}, needs: {need!r} is neither a task nor a model")

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, reference: str) -> ModelEntry | None:
        """The model of a name, an alias or an id, in whatever case; ``damo/X`` and ``iic/X`` are the same."""
        return self._by_reference.get(_normalized(reference))

    def of_task(self, task: Task) -> tuple[ModelEntry, ...]:
        """The models that do one thing."""
        return tuple(entry for entry in self._entries if entry.task == task)


def load_catalogue(models_file: Path | None = None) -> Catalogue:
    """The delivered models, and those of a file of the user's own.

    Args:
        models_file: has the form of ``configs/models.yaml``, with paths that start where it is. What it adds
            may have the name of a delivered model, and then takes its place. Not given: the file that the
            environment variable ``MODELS_FILE`` names, if it is set.

    Raises:
        CatalogueError: a file cannot be read, or is wrong somewhere.
    """
    if models_file is None and (named := os.environ.get("MODELS_FILE")):
        models_file = Path(named)
    return _load(None if models_file is None else models_file.expanduser().resolve())


@cache
def _load(models_file: Path | None) -> Catalogue:
    entries = {entry.name: entry for entry in read_entries(CATALOGUE)}
    if models_file is not None:
        entries |= {entry.name: _beside(models_file, entry) for entry in read_entries(models_file)}
    try:
        return Catalogue(entries.values())
    except CatalogueError as error:
        raise CatalogueError(f"{models_file or CATALOGUE}: {error}.") from None


def _beside(models_file: Path, entry: ModelEntry) -> ModelEntry:
    """``entry``, whose path starts where its file is."""
    if entry.path is None:
        return entry
    return entry.model_copy(update={"path": str(models_file.parent / Path(entry.path).expanduser())})


def read_entries(path: Path) -> list[ModelEntry]:
    """The models of one file.

    Raises:
        CatalogueError: it cannot be read, is no list of models, or an entry is wrong.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise CatalogueError(f"The file of models {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogueError(f"The file of models {path} is not YAML: {error}") from error
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list):
        raise CatalogueError(f"{path} has no list of models: begin it with a line `models:`.")
    entries = [_entry(path, number, fields) for number, fields in enumerate(models, start=1)]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise CatalogueError(f"{path}: two entries have the name {name!r}.")
    return entries


def _entry(path: Path, number: int, fields: Any) -> ModelEntry:
    named = fields.get("name") if isinstance(fields, dict) else None
    which = f"{path}: entry {number}" + (f" ({named})" if named else "")
    if not isinstance(fields, dict):
        raise CatalogueError(f"{which} is not a list of fields such as `name: my-model`.")
    try:
        return ModelEntry.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(_problem(details) for details in error.errors(include_url=False))
        raise CatalogueError(f"{which}: {problems}.") from error


def _problem(details: Any) -> str:
    """One finding of pydantic's as ``field: what is wrong``."""
    field = ".".join(str(part) for part in details["loc"])
    message = str(details["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def _normalized(reference: str) -> str:
    organization, slash, name = reference.strip().lower().rpartition("/")
    return _ORGANIZATIONS.get(organization, organization) + slash + name
