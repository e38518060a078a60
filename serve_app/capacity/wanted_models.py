"""Which models a plan has, and the settings that name them."""

from collections.abc import Mapping
from typing import Any

from deployments.catalogue import load_catalogue
from serve_app.capacity.cards import GIB
from serve_app.capacity.wishes import CannotCount, Wish

PARAFORMER, QWEN3 = "paraformer", "qwen3"
"""Kinds of recognizers, as the catalogue's ``engine``."""

_COMPANIONS = {
    "vad_model": "fsmn-vad",
    "punctuation_model": "ct-punc",
    "punctuation_realtime_model": "ct-punc-realtime",
    "paraformer_streaming_model": "paraformer-zh-streaming",
    "speaker_model": "cam++",
    "qwen3_aligner_model": "qwen3-forced-aligner-0.6b",
}
"""Models of full size beside the recognizers, by the setting that names them."""

_ONLY_FOR = {
    "punctuation_model": PARAFORMER,
    "punctuation_realtime_model": PARAFORMER,
    "paraformer_streaming_model": PARAFORMER,
    "qwen3_aligner_model": QWEN3,
}
_LARGE_GPU = 32 * GIB


class WantedModels:
    """Recognizers of full size, and what goes with them.

    Attributes:
        kinds: the name of the recognizer of each kind.
        lead: the kind of the one that carries the load.
        args: settings that name them all.
    """

    def __init__(self, wish: Wish) -> None:
        """Raises :class:`CannotCount` where there is no figure to plan one with."""
        names = wish.models or _usual(wish)
        self.kinds: Mapping[str, str] = {_kind(name): name for name in names}
        if len(self.kinds) < len(names):
            raise CannotCount("Plans have one Paraformer and one Qwen3-ASR at most; name one of each kind.")
        if QWEN3 in self.kinds and not wish.gpus:
            raise CannotCount(
                f"There is no measured figure of {self.kinds[QWEN3]} on a CPU to plan with: leave it out "
                "(--models paraformer-large), or give it a GPU."
            )
        self.lead = next(iter(self.kinds))
        needed = (place for place in _COMPANIONS if _ONLY_FOR.get(place, self.lead) in self.kinds)
        beside = {place: _COMPANIONS[place] for place in needed}
        self.args: Mapping[str, Any] = {"enabled_models": ",".join(names), **beside}


def _usual(wish: Wish) -> tuple[str, ...]:
    if not wish.gpus:
        return ("paraformer-large",)
    return "paraformer-large", "qwen3-asr-1.7b" if wish.gpu >= _LARGE_GPU else "qwen3-asr-0.6b"


def _kind(name: str) -> str:
    entry = load_catalogue().find(name)
    if entry is None or entry.task != "asr" or entry.planned is not None:
        raise CannotCount(
            f"{name!r:.60} is no recognizer that can be served; `asr-serve models list` has those that can."
        )
    if entry.engine not in (PARAFORMER, QWEN3):
        raise CannotCount(
            f"There are no figures to plan {entry.name} with: take a Paraformer or a Qwen3-ASR."
        )
    return entry.engine
