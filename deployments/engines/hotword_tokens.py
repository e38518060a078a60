"""Hotwords as tokens of a Paraformer's vocabulary."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deployments.engines.base import Hotword
from deployments.engines.model_files import COPY_AGAIN, ModelFiles, ModelFilesError
from deployments.engines.words import is_special

USUAL_WEIGHT = 20.0
"""The weight that changes nothing: that of FunASR's examples."""

_LIMITS = 1.0, 100.0
_UNIT = re.compile(r"[\u3400-\u9fff0-9]|[^\s\u3400-\u9fff0-9]+")
"""One Chinese character, one digit, or a run of anything else."""


@dataclass(frozen=True, slots=True)
class TokenizedHotword:
    """``ids``: its tokens. ``weight``: 1 to 100; see :data:`USUAL_WEIGHT`."""

    text: str
    ids: tuple[int, ...]
    weight: float = USUAL_WEIGHT


class HotwordTokens:
    """Cuts hotwords into tokens, as FunASR does with the ``seg_dict`` of a model directory.

    ``seg_dict`` has a word in each line and the tokens it is written with: ``hello hel@@ lo``. Words that are
    not in it, and models without one, are cut into characters. Unlike FunASR, which then listens for
    ``<unk>``, a hotword that the vocabulary cannot write is none.
    """

    def __init__(self, files: ModelFiles) -> None:
        """Raises :class:`ModelFilesError` if ``seg_dict`` cannot be read as text."""
        self._ids = {token: index for index, token in enumerate(files.tokens) if not is_special(token)}
        self._pieces = _read_pieces(files.directory / "seg_dict")

    def __call__(self, hotwords: Sequence[Hotword]) -> tuple[TokenizedHotword, ...]:
        """Those that the vocabulary can write, in their order, each once and with its greatest weight."""
        found: dict[tuple[int, ...], TokenizedHotword] = {}
        for hotword in hotwords:
            tokens = [piece for word in hotword.text.lower().split() for piece in self._cut(word)]
            ids = tuple(self._ids[token] for token in tokens if token in self._ids)
            if not tokens or len(ids) < len(tokens):
                continue
            weight = USUAL_WEIGHT if hotword.weight is None else hotword.weight
            weight = min(max(weight, _LIMITS[0]), _LIMITS[1])
            known = found.get(ids)
            if known is None or known.weight < weight:
                found[ids] = TokenizedHotword(known.text if known else hotword.text, ids, weight)
        return tuple(found.values())

    def applied(self, hotwords: Sequence[Hotword]) -> tuple[str, ...]:
        """The texts of those that the vocabulary can write."""
        return tuple(hotword.text for hotword in self(hotwords))

    def _cut(self, word: str) -> Iterator[str]:
        """The tokens of a word without white space in it."""
        if word in self._pieces:
            yield from self._pieces[word]
            return
        for unit in _UNIT.findall(word):
            yield from self._pieces.get(unit, (unit,))


def log_factors(hotwords: Sequence[TokenizedHotword], device: torch.device) -> Tensor:
    """ln(weight / 20) of each hotword, fp32: 0 at the usual weight, 1.6 at 100, -3 at 1."""
    weights = torch.tensor([hotword.weight for hotword in hotwords], device=device)
    return torch.log(weights / USUAL_WEIGHT)


def _read_pieces(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ModelFilesError(path, f"cannot be read as text ({error})", COPY_AGAIN) from error
    return {line[0]: tuple(line[1:]) for line in lines if len(line) > 1}
