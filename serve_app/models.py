"""Which recognizers this server has, and by which names clients ask for them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.catalogue import ModelEntry, load_catalogue
from deployments.engines.qwen3_languages import LANGUAGES, language_code
from serve_app.errors import InvalidParameter, ModelNotFound
from serve_app.recognizers import AUTO, NO_MODEL, PARAFORMER, QWEN3, Recognizer, recognizers
from serve_app.settings import Settings

_FIRST = {PARAFORMER: "Paraformer", QWEN3: "Qwen3ASR"}
"""Names of the deployments of the first model of a kind; those of the others are made of their names."""

_FAMILIES = {QWEN3: "qwen3-asr"}
"""With what names of models of a kind begin, where that is not the name of the engine."""

_LANGUAGES = {PARAFORMER: ("zh", "en"), QWEN3: tuple(LANGUAGES)}
_GIFTS = {
    PARAFORMER: frozenset({"word_times"}),
    QWEN3: frozenset({"live", "language", "punctuation", "context", "hotwords"}),
}
"""What is known of a model that is not in the catalogue."""

_KIND = re.compile(r"^model:\s*(\w+)", re.MULTILINE)
_HOTWORD_KINDS = ("SeacoParaformer", "ContextualParaformer")

_ANY = ("", "string", "auto", "default")
"""What clients send that have no model in mind; ``string`` is what a form of Swagger UI is filled with."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A recognizer.

    Attributes:
        id: its name in all APIs.
        engine: what kind it is: the ``engine`` of its entry in the catalogue.
        reference: where it is: a directory, an id on a hub, or a name of the catalogue.
        deployment: what recognizes by it.
        aliases: other names that mean it.
        languages: ISO 639-1 codes, or 639-3 where that has none.
        gives: what comes out of it; see :data:`deployments.catalogue.Gift`.
        entry: of the catalogue, if it has one.
    """

    id: str
    engine: str
    reference: str
    deployment: str
    aliases: tuple[str, ...]
    languages: tuple[str, ...]
    gives: frozenset[str]
    entry: ModelEntry | None = None

    @property
    def is_generative(self) -> bool:
        """Whether it writes text token by token, and hears live speech by itself."""
        return self.engine == QWEN3

    @property
    def reads_context(self) -> bool:
        """Whether plain text may help it."""
        return "context" in self.gives

    @property
    def hears_hotwords(self) -> bool:
        """Whether it can be told which words to listen for."""
        return "hotwords" in self.gives

    @property
    def hears_languages(self) -> bool:
        """Whether it recognizes several, and can be told which one is spoken."""
        return "language" in self.gives

    @property
    def hears_live(self) -> bool:
        """Whether it, or the streaming form of it, hears a sentence while it is spoken; others hear finished
        sentences only."""
        return self.is_generative or self.engine == PARAFORMER

    def code_of(self, language: str | None) -> str | None:
        """The code in ``languages`` of a language as a client names it; ``None`` where the model shall tell.

        Raises:
            InvalidParameter: the model does not know it; the message lists those that it knows.
        """
        if language is None or language.strip().lower() in ("", AUTO):
            return None
        code = language_code(language)
        if code is None or (self.languages and code not in self.languages):
            raise InvalidParameter(
                f"The language {language!r:.60} is not one that the model {self.id} recognizes; it knows "
                f"{', '.join(self.languages)}.",
                "language",
            )
        return code


class ServedModels:
    """All of them; the first one is the default, unless ``DEFAULT_MODEL`` names another."""

    def __init__(self, settings: Settings) -> None:
        """Made of settings alone, so that all processes of a server agree: what ``auto`` and ``all`` come to
        on a machine has to be in ``enabled_models`` (see :func:`serve_app.enabled_models.choose_models`).
        Without that they mean the configured models.

        Raises:
            ModelNotFound: ``settings.enabled_models`` names a model that nobody knows, or
                ``settings.default_model`` is none of those that are served.
        """
        self._catalogue = load_catalogue(settings.models_file)
        self._models = tuple(_served(recognizers(settings)))
        self.default = self.find(settings.default_model) if settings.default_model else self._models[0]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    @property
    def generative(self) -> tuple[ServedModel, ...]:
        """Those that write text token by token."""
        return tuple(model for model in self._models if model.is_generative)

    @property
    def needs_streaming(self) -> bool:
        """Whether some need a model of their own for partial texts, and one that sets marks."""
        return any(not model.is_generative for model in self._models)

    def find(self, name: str) -> ServedModel:
        """The model that a client means by ``name``, in whatever case: that of this name, else that of this
        alias, else the first of the kind that names like this are given to.

        Raises:
            ModelNotFound: there is none; the message lists those that there are.
        """
        wanted = name.strip().lower()
        if wanted in _ANY:
            return self.default
        entry = self._catalogue.find(wanted)
        named = [model for model in self._models if wanted == model.id.lower()]
        named += [model for model in self._models if entry is not None and model.entry is entry]
        # What other services and hubs call models of the same kind: Qwen/Qwen3-ASR-0.6B, paraformer-v2.
        kind = wanted.rpartition("/")[2]
        named += [model for model in self._models if kind.startswith(_family(model.engine))]
        if named:
            return named[0]
        served = ", ".join(model.id for model in self._models)
        raise ModelNotFound(f"The model {name!r:.80} is not served here; there are: {served}.")

    def meant(self, name: str) -> ServedModel:
        """The same for clients that know names of other services only: those that mean nothing here mean the
        default model."""
        try:
            return self.find(name)
        except ModelNotFound:
            return self.default


def has_qwen3(settings: Settings) -> bool:
    """Whether a Qwen3-ASR is served."""
    return any(each.engine == QWEN3 for each in recognizers(settings))


def has_aligner(settings: Settings) -> bool:
    """Whether there is a model that tells when its words were said."""
    return has_qwen3(settings) and settings.qwen3_aligner_model.strip().lower() != NO_MODEL


def _served(models: list[Recognizer]) -> Iterator[ServedModel]:
    kinds: set[str] = set()
    for model in models:
        entry, engine = model.entry, model.engine
        first = engine in _FIRST and engine not in kinds
        kinds.add(engine)
        languages = _LANGUAGES.get(engine, ()) if entry is None or engine == QWEN3 else entry.languages
        yield ServedModel(
            model.name,
            engine,
            model.reference,
            _FIRST[engine] if first else f"Recognizer-{re.sub(r'[^A-Za-z0-9._-]', '-', model.name)}",
            () if entry is None else tuple(name for name in entry.names if name != model.name),
            tuple(code for code in languages if code != "mul"),
            _gifts(model) if entry is None else frozenset(entry.gives),
            entry,
        )


def _gifts(model: Recognizer) -> frozenset[str]:
    """What a model gives that is not in the catalogue."""
    known = _GIFTS.get(model.engine, frozenset())
    config = Path(model.reference).expanduser() / "config.yaml"
    try:
        kind = _KIND.search(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return known
    return known | {"hotwords"} if kind is not None and kind[1] in _HOTWORD_KINDS else known


def _family(engine: str) -> str:
    return _FAMILIES.get(engine, engine.rpartition(".")[2])
