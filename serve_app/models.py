"""Which recognizers this server has, and by which names clients ask for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from deployments.engines.qwen3_languages import LANGUAGES, language_code
from serve_app.errors import InvalidParameter, ModelNotFound
from serve_app.settings import Settings

NO_MODEL = "none"
_PARAFORMER_LANGUAGES = {
    "zh": "zh",
    "chinese": "zh",
    "mandarin": "zh",
    "cmn": "zh",
    "en": "en",
    "english": "en",
}
_PARAFORMER_ALIASES = frozenset({"paraformer", "paraformer-zh", "paraformer-large"})
_QWEN3_ALIASES = frozenset({"qwen3-asr"})
_FAMILIES = {"paraformer": "paraformer", "qwen3": "qwen3-asr"}
_ANY = ("", "string", "auto", "default")
"""What clients send that have no model in mind; ``string`` is what a form of Swagger UI is filled with."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A recognizer.

    Attributes:
        id: its name in all APIs.
        engine: what kind it is.
        aliases: other names that mean it.
        languages: ISO 639-1 codes, or 639-3 where that has none.
        deployments: what has to run for it.
        reads_context: whether plain text may help it.
    """

    id: str
    engine: Literal["paraformer", "qwen3"]
    aliases: frozenset[str]
    languages: tuple[str, ...]
    deployments: tuple[str, ...]
    reads_context: bool

    def code_of(self, language: str | None) -> str | None:
        """The code in ``languages`` of a language as a client names it; ``None`` where the model shall tell.

        Raises:
            InvalidParameter: the model does not know it; the message lists those that it knows.
        """
        if language is None or language.strip().lower() in ("", "auto"):
            return None
        if self.engine == "qwen3":
            code = language_code(language)
        else:
            code = _PARAFORMER_LANGUAGES.get(language.strip().lower().replace("_", "-").split("-")[0])
        if code is None:
            raise InvalidParameter(
                f"The language {language!r:.60} is not one that the model {self.id} recognizes; it knows "
                f"{', '.join(self.languages)}.",
                "language",
            )
        return code


class ServedModels:
    """All of them; the first one is the default."""

    def __init__(self, settings: Settings) -> None:
        """Raises ModelNotFound if ``settings.default_model`` is none of them."""
        models = [
            ServedModel(
                settings.model_name,
                "paraformer",
                _PARAFORMER_ALIASES,
                ("zh", "en"),
                ("Paraformer", "Punctuation"),
                reads_context=False,
            )
        ]
        if has_qwen3(settings):
            models.append(
                ServedModel(
                    settings.qwen3_model_name,
                    "qwen3",
                    _QWEN3_ALIASES,
                    tuple(LANGUAGES),
                    ("Qwen3ASR",),
                    reads_context=True,
                )
            )
        self._models = tuple(models)
        self.default = self.find(settings.default_model) if settings.default_model else models[0]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def find(self, name: str) -> ServedModel:
        """The model that a client means by ``name``, in whatever case.

        Raises:
            ModelNotFound: there is none; the message lists those that there are.
        """
        wanted = name.strip().lower()
        if wanted in _ANY:
            return self.default
        for model in self._models:
            if wanted == model.id.lower() or wanted in model.aliases:
                return model
        # What other services and hubs call models of the same kind: Qwen/Qwen3-ASR-0.6B, paraformer-v2.
        kind = wanted.rpartition("/")[2]
        for model in self._models:
            if kind.startswith(_FAMILIES[model.engine]):
                return model
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
    """Whether Qwen3-ASR is served."""
    return settings.qwen3_model.strip().lower() != NO_MODEL


def has_aligner(settings: Settings) -> bool:
    """Whether there is a model that tells when its words were said."""
    return has_qwen3(settings) and settings.qwen3_aligner_model.strip().lower() != NO_MODEL
