"""Which models are meant: by name, alias or id, or by the profile of a machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deployments.catalogue import Catalogue, ModelEntry, ModelRefused
from deployments.model_record import Hub
from serve_app.model_hub.errors import ModelHubError

HubChoice = Literal["auto", "modelscope", "huggingface"]

_CPU = ("paraformer-large", "paraformer-zh-streaming", "fsmn-vad", "ct-punc", "ct-punc-realtime", "cam++")
_ALIGNER = "qwen3-forced-aligner-0.6b"

PROFILES: dict[str, tuple[str, ...]] = {
    "cpu": _CPU,
    "gpu": (*_CPU, "qwen3-asr-0.6b", _ALIGNER),
    "gpu-large": (*_CPU, "qwen3-asr-1.7b", _ALIGNER),
}
"""What ``ENABLED_MODELS=auto`` takes, with all that goes with it; ``gpu-large``: 32 GB and more."""

PROFILE_ALIASES = {
    "gpu-16g": "gpu",
    "gpu-24g": "gpu",
    "gpu-32g": "gpu-large",
    "gpu-40g": "gpu-large",
    "gpu-48g": "gpu-large",
    "gpu-80g": "gpu-large",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and where it may be fetched: ``(hub, id)``, in the order in which they are asked."""

    name: str
    sources: tuple[tuple[Hub, str], ...]


def profile(name: str) -> tuple[str, ...]:
    """The models of a profile.

    Raises:
        ModelHubError: there is no such profile.
    """
    wanted = name.strip().lower()
    if wanted == "starter":
        raise ModelHubError("The starter models come with the service; there is nothing to fetch.")
    models = PROFILES.get(PROFILE_ALIASES.get(wanted, wanted))
    if models is None:
        known = ", ".join((*PROFILES, *PROFILE_ALIASES))
        raise ModelHubError(f"There is no profile {name!r:.40}; there are: {known}.")
    return models


def select(
    references: Sequence[str],
    catalogue: Catalogue,
    hub: HubChoice = "auto",
    *,
    onnx: bool = False,
    if_published: bool = False,
) -> list[Wanted]:
    """The models that are meant, each once.

    Args:
        references: names, aliases, or ids on a hub. An id may be one that the catalogue does not know.
        catalogue: what the names mean.
        hub: where to fetch them; ``auto``: ModelScope, or Hugging Face if that does not have them or does not
            answer.
        onnx: whether their ONNX directories are meant.
        if_published: whether a model that has no ONNX directory is taken as it is.

    Raises:
        ModelHubError: a model is not known, not on that hub, or cannot be used.
    """
    chosen = []
    for reference in references:
        entry = catalogue.find(reference)
        graphs = onnx and not (if_published and entry is not None and not entry.onnx)
        chosen.append(_wanted(reference, entry, hub, graphs))
    return list({wanted.sources: wanted for wanted in chosen}.values())


def _wanted(reference: str, entry: ModelEntry | None, hub: HubChoice, onnx: bool) -> Wanted:
    if entry is None:
        if not is_id(reference):
            raise ModelHubError(
                f"There is no model {reference!r:.80}. `asr-serve models list` shows those that there are; "
                "an id on a hub has the form owner/name."
            )
        return Wanted(reference, _of_hubs((reference,), (reference,), hub))
    try:
        entry.check_usable()
    except ModelRefused as error:
        raise ModelHubError(str(error)) from error
    if not entry.ids:
        raise ModelHubError(f"The model {entry.name} comes with the service; there is nothing to fetch.")
    sources = _sources(reference, entry, hub, onnx)
    if not sources:
        raise ModelHubError(_unavailable(entry, hub, onnx))
    return Wanted(entry.name, sources)


def _sources(reference: str, entry: ModelEntry, hub: HubChoice, onnx: bool) -> tuple[tuple[Hub, str], ...]:
    if is_id(reference):
        name = reference.partition("/")[2].lower()
        same = [[each for each in ids if each.partition("/")[2].lower() == name] for ids in _ids(entry)]
        return _of_hubs((*same[0], *same[2]), same[1], hub)
    if onnx:
        return _of_hubs(entry.onnx, (), hub)
    return _of_hubs(entry.modelscope, entry.huggingface, hub)


def _ids(entry: ModelEntry) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return entry.modelscope, entry.huggingface, entry.onnx


def _of_hubs(
    modelscope: Sequence[str], huggingface: Sequence[str], hub: HubChoice
) -> tuple[tuple[Hub, str], ...]:
    """The first id of each hub that may be asked."""
    found: list[tuple[Hub, str]] = []
    if hub != "huggingface":
        found += [("modelscope", identifier) for identifier in modelscope[:1]]
    if hub != "modelscope":
        found += [("huggingface", identifier) for identifier in huggingface[:1]]
    return tuple(found)


def _unavailable(entry: ModelEntry, hub: HubChoice, onnx: bool) -> str:
    if onnx and not entry.onnx:
        return (
            f"The model {entry.name} is not published as ONNX. `asr-serve models export {entry.name}` makes "
            "it from its PyTorch weights, if it can."
        )
    titles = {"modelscope": "ModelScope", "huggingface": "Hugging Face", "auto": "any hub"}
    return f"The model {entry.name} is not known to be on {titles[hub]}; it is {', '.join(entry.ids)}."


def is_id(reference: str) -> bool:
    """Whether it has the form of an id on a hub."""
    owner, _, name = reference.partition("/")
    return bool(owner and name) and "/" not in name and ".." not in reference and not owner.startswith(".")
