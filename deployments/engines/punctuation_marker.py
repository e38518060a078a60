"""Marks of whole texts by any CT-Transformer: what its engines do alike, around the network.

Chen et al., "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and Disfluency
Detection", arXiv:2003.01309.
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.punctuation_text import (
    Text,
    by_word,
    mark_all,
    parts,
    read_marks,
    token_id,
    units,
)

_LATIN = re.compile(r"[a-zA-Z']+")

Segmenter = Callable[[Sequence[str]], list[str]]
"""Cuts a text into the model's tokens: joined, they are the words joined, less white space."""


class MarkNetwork(Protocol):
    """Gives, for each window of token numbers by itself, the likeliest mark's number after each token."""

    def predict(self, windows: Sequence[Sequence[int]]) -> list[list[int]]: ...


class CtPunctuator:
    """A :class:`~deployments.engines.base.PunctuationEngine` over any :class:`MarkNetwork`.

    A token that the vocabulary lacks is looked up in lower case, and else counts as unknown. A word of
    several tokens gets the mark of its last one. No mark is forced upon the end of a text.

    Raises:
        ModelFilesError: ``files`` have no ``<unk>`` in their vocabulary, or marks that are unknown here.
    """

    def __init__(self, files: ModelFiles, network: MarkNetwork) -> None:
        if "<unk>" not in files.tokens:
            raise ModelFilesError(files.directory, "has no <unk> in its vocabulary", SAME_MODEL)
        self._marks = read_marks(files)
        self._ids = {token: index for index, token in enumerate(files.tokens)}
        self._segment = _segmenter(files)
        self._network = network

    def punctuate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The mark that follows each word of each text (see ``PunctuationEngine``).

        Takes time linear in the length of a text, and no more memory for a long one than for a short one
        (its marks apart).
        """
        segmented = [self._segment(words) for words in texts]
        running = [Text([token_id(self._ids, token) for token in tokens]) for tokens in segmented]
        mark_all(running, lambda batch: self._predict([running[index].window() for index in batch]))
        return [
            by_word(words, tokens, text.marks)
            for words, tokens, text in zip(texts, segmented, running, strict=True)
        ]

    def _predict(self, windows: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self._marks[mark] for mark in marks] for marks in self._network.predict(windows)]


def _segmenter(files: ModelFiles) -> Segmenter:
    """Whole words of the model's dictionary if it brings one (by jieba), single characters if not."""
    dictionary = files.directory / "jieba_usr_dict"
    if not dictionary.is_file():
        return units
    import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.load_userdict(str(dictionary))

    def segment(words: Sequence[str]) -> list[str]:
        tokens: list[str] = []
        for is_latin, group in groupby(parts(words), lambda part: _LATIN.fullmatch(part) is not None):
            run = list(group)
            tokens += run if is_latin else tokenizer.cut("".join(run), HMM=False)
        return tokens

    return segment
