"""Punctuation by FunASR's CT-Transformer: the marks of many texts of any length, batched.

Chen et al., "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and Disfluency
Detection", arXiv:2003.01309.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain, groupby, islice
from pathlib import Path

import torch

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_model_files
from deployments.engines.punctuation_text import (
    Text,
    by_word,
    mark_all,
    parts,
    read_marks,
    token_id,
    units,
)
from deployments.engines.sanm import Linear, Placement, Rows, SanmEncoder

_LATIN = re.compile(r"[a-zA-Z']+")

Segmenter = Callable[[Sequence[str]], list[str]]
"""Cuts a text into the model's tokens: joined, they are the words joined, less white space."""


class CtPunctuationEngine:
    """A :class:`~deployments.engines.base.PunctuationEngine` over the directory of a ``CTTransformer``.

    A token that the vocabulary lacks is looked up in lower case, and else counts as unknown. A word of
    several tokens gets the mark of its last one. No mark is forced upon the end of a text.
    ``threads`` is how many torch uses in this process from now on.

    Raises:
        ModelFilesError: the directory does not hold such a model.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        self._threads = threads
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        if files.config["model"] != "CTTransformer" or "<unk>" not in files.tokens:
            problem = "is not a CTTransformer with <unk> in its vocabulary"
            raise ModelFilesError(files.directory, problem, SAME_MODEL)
        self._marks = read_marks(files)
        self._ids = {token: index for index, token in enumerate(files.tokens)}
        self._segment = _segmenter(files)
        self._device = torch.device(device)
        self._load_network(files)

    def _load_network(self, files: ModelFiles) -> None:
        model, encoder, source = files.section("model_conf"), files.section("encoder_conf"), files.parameters
        width, at = int(model.get("embed_unit", 128)), Placement(torch.float32, self._device)
        self._embedding = source.take("embed.weight", len(files.tokens), width).to(self._device)
        self._encoder = SanmEncoder(source, "encoder.", width, encoder, at)
        self._decoder = Linear.load(source, "decoder", (len(self._marks), self._encoder.size), at)

    def punctuate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The mark that follows each word of each text (see ``PunctuationEngine``).

        Takes time linear in the length of a text, and no more memory for a long one than for a short one
        (its marks apart).
        """
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        segmented = [self._segment(words) for words in texts]
        running = [Text([token_id(self._ids, token) for token in tokens]) for tokens in segmented]
        mark_all(running, lambda batch: self._predict([running[index].window() for index in batch]))
        return [
            by_word(words, tokens, text.marks)
            for words, tokens, text in zip(texts, segmented, running, strict=True)
        ]

    @torch.inference_mode()
    def _predict(self, windows: Sequence[Sequence[int]]) -> list[list[str]]:
        """The likeliest mark after each token, for each window by itself."""
        lengths = [len(window) for window in windows]
        ids = torch.tensor(list(chain.from_iterable(windows)), device=self._device)
        encoded = self._encoder(self._embedding[ids], Rows(lengths, self._device))
        best = iter(self._decoder(encoded).argmax(dim=1).tolist())
        return [[self._marks[mark] for mark in islice(best, length)] for length in lengths]


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
