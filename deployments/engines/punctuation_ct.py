"""Punctuation by FunASR's CT-Transformer: the marks of many texts of any length, batched.

Chen et al., "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and Disfluency
Detection", arXiv:2003.01309. How a long text is gone through is that of FunASR's
``CTTransformer.inference``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from pathlib import Path

import torch

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_model_files
from deployments.engines.sanm import Linear, Placement, Rows, SanmEncoder

_STEP = 20
"""Tokens that each round adds to those pending (``split_size`` in FunASR)."""
_LONG = 200
"""Pending tokens above which a comma ends a sentence (``cache_pop_trigger_limit`` in FunASR)."""
_LONGEST = 400
"""Pending tokens above which the oldest are settled though there is no mark; FunASR goes on without end."""
_BATCH_TOKENS = 4096
"""About how many tokens one forward pass takes, so that its memory is bounded."""

_NO_MARK = ("", "_", "<unk>")
_FULL_WIDTH = {",": "，", ".": "。", "?": "？"} | {mark: mark for mark in "，。？、"}
_UNIT = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]")
_LATIN = re.compile(r"[a-zA-Z']+")

Segmenter = Callable[[Sequence[str]], list[str]]
"""Cuts a text into the model's tokens: joined, they are the words joined, less white space."""


@dataclass(slots=True)
class _Text:
    """One text on its way: ``marks`` of its settled tokens; the next ones up to ``end`` are pending."""

    ids: list[int]
    end: int = 0
    marks: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        return len(self.marks) < len(self.ids)

    def window(self) -> list[int]:
        """The pending tokens."""
        return self.ids[len(self.marks) : self.end]

    def settle(self, marks: list[str]) -> None:
        """Take the marks of :meth:`window`, as far as they are certain.

        Those after the last end of a sentence are not: they are looked at again with more of the text.
        """
        if self.end == len(self.ids):
            self.marks += marks
            return
        count = _settled(marks, "。？")
        if not count and len(marks) > _LONG and (count := _settled(marks, "，")):
            marks[count - 1] = "。"
        if not count and len(marks) > _LONGEST:
            count = len(marks) - _LONG
        self.marks += marks[:count]


def _settled(marks: Sequence[str], ends: str) -> int:
    """How many tokens there are up to the last mark that is one of ``ends``; 0 if there is none.

    FunASR goes neither by the last token, which lacks what follows it, nor by the first two.
    """
    return next((i + 1 for i in range(len(marks) - 2, 1, -1) if marks[i] and marks[i] in ends), 0)


class CtPunctuationEngine:
    """A :class:`~deployments.engines.base.PunctuationEngine` over the directory of a ``CTTransformer``.

    A token that the vocabulary lacks is looked up in lower case, and else counts as unknown. A word of
    several tokens gets the mark of its last one. No mark is forced upon the end of a text.
    ``threads`` is how many torch uses in this process from now on.

    Raises:
        ModelFilesError: the directory does not hold such a model.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        if files.config["model"] != "CTTransformer" or "<unk>" not in files.tokens:
            problem = "is not a CTTransformer with <unk> in its vocabulary"
            raise ModelFilesError(files.directory, problem, SAME_MODEL)
        self._marks = _read_marks(files)
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
        segmented = [self._segment(words) for words in texts]
        running = [_Text([self._id(token) for token in tokens]) for tokens in segmented]
        while unfinished := [text for text in running if text.unfinished]:
            for text in unfinished:
                text.end = min(text.end + _STEP, len(text.ids))
            for batch in _batches(unfinished):
                for text, marks in zip(batch, self._predict([text.window() for text in batch]), strict=True):
                    text.settle(marks)
        return [
            _by_word(words, tokens, text.marks)
            for words, tokens, text in zip(texts, segmented, running, strict=True)
        ]

    def _id(self, token: str) -> int:
        unknown = self._ids["<unk>"]
        return self._ids.get(token, self._ids.get(token.lower(), unknown))

    @torch.inference_mode()
    def _predict(self, windows: Sequence[Sequence[int]]) -> list[list[str]]:
        """The likeliest mark after each token, for each window by itself."""
        lengths = [len(window) for window in windows]
        ids = torch.tensor(list(chain.from_iterable(windows)), device=self._device)
        encoded = self._encoder(self._embedding[ids], Rows(lengths, self._device))
        best = iter(self._decoder(encoded).argmax(dim=1).tolist())
        return [[self._marks[mark] for mark in islice(best, length)] for length in lengths]


def _batches(texts: Iterable[_Text]) -> Iterator[list[_Text]]:
    batch: list[_Text] = []
    tokens = 0
    for text in texts:
        if batch and tokens + len(text.window()) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += len(text.window())
    yield batch


def _by_word(words: Sequence[str], tokens: Sequence[str], marks: Sequence[str]) -> list[str]:
    """The mark of the token that ends where a word ends; none within a token, or after white space."""
    position, at = 0, {0: ""}
    for token, mark in zip(tokens, marks, strict=True):
        position += len(token)
        at[position] = mark
    position, result = 0, []
    for word in words:
        size = sum(map(len, word.split()))
        position += size
        result.append(at.get(position, "") if size else "")
    return result


def _read_marks(files: ModelFiles) -> list[str]:
    """The model's marks in the order of its outputs, full-width, "" for none."""
    names = [str(name) for name in files.section("model_conf")["punc_list"]]
    if strange := [name for name in names if name not in _FULL_WIDTH and name not in _NO_MARK]:
        raise ModelFilesError(files.directory, f"its punc_list has unknown marks {strange}", SAME_MODEL)
    return [_FULL_WIDTH.get(name, "") for name in names]


def _segmenter(files: ModelFiles) -> Segmenter:
    """Whole words of the model's dictionary if it brings one (by jieba), single characters if not."""
    dictionary = files.directory / "jieba_usr_dict"
    if not dictionary.is_file():
        return lambda words: [unit for part in _parts(words) for unit in _UNIT.findall(part)]
    import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.load_userdict(str(dictionary))

    def segment(words: Sequence[str]) -> list[str]:
        tokens: list[str] = []
        for is_latin, group in groupby(_parts(words), lambda part: _LATIN.fullmatch(part) is not None):
            parts = list(group)
            tokens += parts if is_latin else tokenizer.cut("".join(parts), HMM=False)
        return tokens

    return segment


def _parts(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        yield from word.split()
