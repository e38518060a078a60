"""What ``ENABLED_MODELS`` comes to on this machine: which recognizers are served, with which other models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deployments.catalogue import Catalogue, ModelEntry, Task, load_catalogue
from deployments.model_store import present
from serve_app.gpu_memory import largest_gpu
from serve_app.recognizers import ALL, AUTO, PARAFORMER, QWEN3, Recognizer, configured, listed, recognizers
from serve_app.settings import Settings

FORMER = "former"
"""Among the arguments of a graph: those of before, while sessions that began with their models still last."""

LARGE_GPU_BYTES = 32 * 10**9
"""Memory from which on a GPU holds the larger Qwen3-ASR. Cards that are sold with 32 GB have a little less
than 32 GiB, and are meant."""

LARGE, SMALL = "qwen3-asr-1.7b", "qwen3-asr-0.6b"
_PARAFORMER = "paraformer-large"

_STARTERS = ("models", "starter")
"""Where the models of the repository are, which know synthetic speech only."""

_PLACES = {PARAFORMER: "paraformer_model", QWEN3: "qwen3_model"}

_COMPANIONS: dict[Task, tuple[str, tuple[str, ...]]] = {
    "vad": ("vad_model", ("fsmn-vad",)),
    "asr-streaming": ("paraformer_streaming_model", ("paraformer-zh-streaming",)),
    "punctuation": ("punctuation_model", ("ct-punc", "ct-punc-c")),
    "punctuation-realtime": ("punctuation_realtime_model", ("ct-punc-realtime",)),
    "speaker": ("speaker_model", ("cam++",)),
    "aligner": ("qwen3_aligner_model", ("qwen3-forced-aligner-0.6b",)),
}
"""By task: the setting that names such a model, and what fits a recognizer of full size, the best first."""


@dataclass(frozen=True, slots=True)
class Choice:
    """``settings`` in which ``enabled_models`` is a list, and which name models beside them that fit.

    ``notes`` are sentences for who starts the server.
    """

    settings: Settings
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Missing:
    """Names of models that would have been taken, were they on this machine."""

    recognizers: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


def choose_models(settings: Settings, gpu: Callable[[], int | None] = largest_gpu) -> Choice:
    """Decide once, where the server is started, what all of its processes are to serve.

    Args:
        settings: as the user gave them. What is named in them explicitly stays as it is.
        gpu: bytes of memory of the largest GPU; ``None``: there is none. Asked for ``auto`` only.

    Raises:
        CatalogueError: a file of models is wrong.
        ModelNotFound: a name in the list is not that of a recognizer.
        ModelRefused: it is that of one that cannot be used yet.
    """
    catalogue, missing = load_catalogue(settings.models_file), _Missing()
    names = listed(settings.enabled_models)
    notes: list[str] = []
    if names == [AUTO]:
        memory = _usable_memory(settings, gpu)
        found = configured(settings) if memory is None else _for_gpu(settings, catalogue, memory, missing)
        notes += _about_gpu(memory, found, missing)
    elif names == [ALL]:
        found = [*configured(settings), *_all_present(settings, catalogue)]
    else:
        found = recognizers(settings)
    for each in found:
        if each.entry is not None:
            each.entry.check_usable()
    companions = _companions(settings, catalogue, found, missing)
    notes += _about_companions(found, missing)
    update = {"enabled_models": ",".join(each.name for each in found), **companions}
    return Choice(settings.model_copy(update=update), tuple(notes))


def _usable_memory(settings: Settings, gpu: Callable[[], int | None]) -> int | None:
    device = settings.device.strip().lower()
    if device == "cpu":
        return None
    if settings.gpu_memory is not None:
        return int(settings.gpu_memory * 2**20)
    # Who starts a cluster may do so on a machine without a GPU: what is known is that there are some.
    return gpu() or 0 if device.startswith("cuda") else gpu()


def _for_gpu(settings: Settings, catalogue: Catalogue, memory: int, missing: _Missing) -> list[Recognizer]:
    """Models of full size, in the place of those that are configured by default."""
    names = {PARAFORMER: _PARAFORMER, QWEN3: LARGE if memory >= LARGE_GPU_BYTES else SMALL}
    found = []
    for kind, own in zip((PARAFORMER, QWEN3), _by_place(settings), strict=True):
        entry = catalogue.find(names[kind])
        if entry is None or _PLACES[kind] in settings.model_fields_set:
            found += own
        elif _at_hand(entry, settings):
            found.append(Recognizer(entry.name, entry.engine or kind, entry.name, entry))
        else:
            missing.recognizers.append(entry.name)
            found += own
    return found


def _by_place(settings: Settings) -> tuple[list[Recognizer], list[Recognizer]]:
    """What ``PARAFORMER_MODEL`` names, and what ``QWEN3_MODEL`` does, which may be nothing."""
    first, *rest = configured(settings)
    return [first], rest


def _all_present(settings: Settings, catalogue: Catalogue) -> Iterator[Recognizer]:
    """Recognizers of the catalogue that are on this machine and can be used, but for those configured."""
    own = configured(settings)
    for entry in catalogue.of_task("asr"):
        known = any(each.entry is entry or each.name == entry.name for each in own)
        if not known and entry.planned is None and present(entry, settings.modelscope_path) is not None:
            yield Recognizer(entry.name, entry.engine or "", entry.name, entry)


def _companions(
    settings: Settings, catalogue: Catalogue, found: Sequence[Recognizer], missing: _Missing
) -> dict[str, str]:
    """Settings of the models beside the recognizers, where one of those is of full size.

    The starter models know synthetic speech only. A starter aligner would even be worse than none, since
    times of words that are estimated are about right.
    """
    full = [each for each in found if not _is_starter(each)]
    update: dict[str, str] = {}
    for task in _tasks(found, full):
        place, names = _COMPANIONS[task]
        if place in settings.model_fields_set:
            continue
        names = _named(task, full, catalogue) or names
        entries = [entry for name in names if (entry := catalogue.find(name)) is not None]
        taken = next((entry for entry in entries if _at_hand(entry, settings)), None)
        if taken is not None:
            update[place] = taken.name
        elif entries:
            missing.beside.append(entries[0].name)
            update |= {place: "none"} if task == "aligner" else {}
    return update


def _is_starter(model: Recognizer) -> bool:
    place = model.reference if model.entry is None or model.entry.path is None else model.entry.path
    return Path(place).parent.parts[-2:] == _STARTERS


def _tasks(found: Sequence[Recognizer], full: Sequence[Recognizer]) -> Iterator[Task]:
    if not full:
        return
    yield "vad"
    yield "speaker"
    if any(each.engine != QWEN3 for each in found):
        yield from ("asr-streaming", "punctuation", "punctuation-realtime")
    if any(each.engine == QWEN3 for each in full):
        yield "aligner"


def _named(task: Task, full: Sequence[Recognizer], catalogue: Catalogue) -> tuple[str, ...]:
    """The model for a task that all recognizers of full size ask for by name, if there is one."""
    needs = [() if each.entry is None else each.entry.needs for each in full]
    named = [
        {need for need in of_one if (model := catalogue.find(need)) is not None and model.task == task}
        for of_one in needs
    ]
    return tuple(sorted(set.intersection(*named)))[:1]


def _at_hand(entry: ModelEntry, settings: Settings) -> bool:
    # What is not here yet is fetched before anything starts.
    return settings.download_models or present(entry, settings.modelscope_path) is not None


def _about_gpu(memory: int | None, found: Sequence[Recognizer], missing: _Missing) -> Iterator[str]:
    if memory is None or not missing.recognizers:
        return
    size = f"of {memory / 2**30:.0f} GB" if memory else "of unknown size"
    profile = "gpu-large" if LARGE in missing.recognizers else "gpu"
    absent = " and ".join(missing.recognizers)
    yield (
        f"ENABLED_MODELS=auto takes {absent} on a GPU {size}, which {_are(missing.recognizers)} not on this "
        f"machine, so {' and '.join(each.name for each in found)} {_are(found)} served. Fetch what is "
        f"missing with `asr-serve models pull --profile {profile}`, or name what you want in ENABLED_MODELS."
    )


def _about_companions(found: Sequence[Recognizer], missing: _Missing) -> Iterator[str]:
    if not missing.beside:
        return
    full = [each.name for each in found if not _is_starter(each)]
    yield (
        f"{' and '.join(full)} {_are(full)} served without {', '.join(missing.beside)}, which "
        f"{_are(missing.beside)} not on this machine: what takes the place is made for synthetic speech. "
        f"Fetch what is missing with `asr-serve models pull {' '.join(missing.beside)}`."
    )


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
