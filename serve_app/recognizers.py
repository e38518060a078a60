"""Which recognizers the settings name."""

from dataclasses import dataclass

from deployments.catalogue import ModelEntry, load_catalogue
from serve_app.errors import ModelNotFound
from serve_app.settings import Settings

NO_MODEL = "none"
AUTO, ALL = "auto", "all"
"""Values of ``ENABLED_MODELS`` that are no list; :func:`serve_app.enabled_models.choose_models` makes one of
them."""

QWEN3 = "qwen3"
"""The engine of models that write text token by token: they have deployments of a kind of their own."""

PARAFORMER = "paraformer"


@dataclass(frozen=True, slots=True)
class Recognizer:
    """A model that recognizes speech: its name, its engine, where it is, and its entry in the catalogue."""

    name: str
    engine: str
    reference: str
    entry: ModelEntry | None


def recognizers(settings: Settings) -> list[Recognizer]:
    """The models that ``settings.enabled_models`` names, in its order, each once.

    Raises:
        ModelNotFound: a name that nobody knows.
    """
    names = listed(settings.enabled_models)
    if names in ([AUTO], [ALL]):
        return configured(settings)
    found = {each.name.lower(): each for each in (recognizer(name, settings) for name in names)}
    return [*found.values()]


def listed(enabled_models: str) -> list[str]:
    """The names in a value of ``ENABLED_MODELS``; ``auto`` and ``all`` stand alone, in lower case."""
    names = [name.strip() for name in enabled_models.split(",")]
    names = [name for name in names if name]
    alone = names[0].lower() if len(names) == 1 else ""
    return [alone] if alone in (AUTO, ALL) else names


def configured(settings: Settings) -> list[Recognizer]:
    """The models that ``PARAFORMER_MODEL`` and ``QWEN3_MODEL`` name."""
    found = [_configured(settings, PARAFORMER, "paraformer_model", "model_name")]
    if settings.qwen3_model.strip().lower() != NO_MODEL:
        found.append(_configured(settings, QWEN3, "qwen3_model", "qwen3_model_name"))
    return found


def recognizer(name: str, settings: Settings) -> Recognizer:
    """The configured model of this name or at this place, else the one of the catalogue.

    Raises:
        ModelNotFound: there is none, or what has this name does not recognize speech.
    """
    own, entry = configured(settings), load_catalogue(settings.models_file).find(name)
    for each in own:
        if name.lower() == each.name.lower() or name == each.reference:
            return each
    for each in own:
        if entry is not None and each.entry is entry:
            return each
    if entry is None:
        known = ", ".join(each.name for each in own)
        raise ModelNotFound(
            f"ENABLED_MODELS names {name!r:.80}, which no model has for a name. There are {known}, and those "
            "that `asr-serve models list --task asr` shows."
        )
    if entry.task != "asr":
        raise ModelNotFound(
            f"ENABLED_MODELS names {entry.name}, whose task is {entry.task}; it takes recognizers, which "
            "`asr-serve models list --task asr` shows. Other models have settings of their own, such as "
            "VAD_MODEL."
        )
    return Recognizer(entry.name, entry.engine or "", entry.name, entry)


def _configured(settings: Settings, engine: str, place: str, name: str) -> Recognizer:
    reference: str = getattr(settings, place)
    entry = load_catalogue(settings.models_file).find(reference)
    shown: str = getattr(settings, name)
    # Its own name tells more than the name of the starter model that it replaced.
    if entry is not None and name not in settings.model_fields_set:
        shown = entry.name
    return Recognizer(shown, engine if entry is None else entry.engine or engine, reference, entry)
