"""Marks of live text by any streaming CT-Transformer: what its engines do alike, around the network.

Chen et al., "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and Disfluency
Detection", arXiv:2003.01309. What a block is shown, and what is carried to the next one, is that of FunASR's
``CTTransformerStreaming.inference``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.engines.base import PunctuatedBlock, PunctuationBlock
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.punctuation_text import (
    LONG,
    LONGEST,
    Text,
    by_word,
    mark_all,
    read_marks,
    settled,
    token_id,
    units,
)


class LiveMarkNetwork(Protocol):
    """Gives, for each window of token numbers by itself, the number of the likeliest mark after each token.

    ``begins`` is the token of each window at which its newest block begins; 0, or a number past its end,
    where there is nothing before it to hide the block from.
    """

    def predict(self, windows: Sequence[Sequence[int]], begins: Sequence[int]) -> list[list[int]]: ...


@dataclass(slots=True)
class _Stream:
    """A block on its way, with its context before it."""

    block: PunctuationBlock
    context: list[str]
    tokens: list[str]
    text: Text

    def result(self) -> PunctuatedBlock:
        begin, marks = len(self.context), self.text.marks
        open_tokens = (self.context + self.tokens)[settled(marks, "。？") :]
        if len(open_tokens) > LONGEST:
            open_tokens = open_tokens[-LONG:]
        return PunctuatedBlock(
            marks=tuple(by_word(self.block.words, self.tokens, marks[begin:])),
            context_mark=marks[begin - 1] if begin else "",
            context=tuple(open_tokens),
        )


class CtRealtimePunctuator:
    """A :class:`~deployments.engines.base.RealtimePunctuationEngine` over any :class:`LiveMarkNetwork`.

    Tokens are looked up, and words of several tokens get their marks, as in
    :class:`~deployments.engines.punctuation_marker.CtPunctuator`.

    Raises:
        ModelFilesError: ``files`` have no ``<unk>`` in their vocabulary, or marks that are unknown here.
    """

    def __init__(self, files: ModelFiles, network: LiveMarkNetwork) -> None:
        if "<unk>" not in files.tokens:
            raise ModelFilesError(files.directory, "has no <unk> in its vocabulary", SAME_MODEL)
        self._marks = read_marks(files)
        self._ids = {token: index for index, token in enumerate(files.tokens)}
        self._network = network

    def punctuate(self, blocks: Sequence[PunctuationBlock]) -> list[PunctuatedBlock]:
        """The marks of each block, and what to pass on with the next block of its stream.

        Takes time linear in the length of a block. The context of the result never holds more than 400
        tokens: in a stream without any mark it is cut to its last 200, where FunASR's grows without end.
        """
        streams = [self._stream(block) for block in blocks]
        mark_all([stream.text for stream in streams], lambda batch: self._predict(streams, batch))
        return [stream.result() for stream in streams]

    def _stream(self, block: PunctuationBlock) -> _Stream:
        context, tokens = units(block.context), units(block.words)
        ids = [token_id(self._ids, token) for token in context + tokens]
        return _Stream(block, context, tokens, Text(ids))

    def _predict(self, streams: Sequence[_Stream], batch: Sequence[int]) -> list[list[str]]:
        """The likeliest mark after each token of the windows of some of the streams."""
        windows = [streams[index].text.window() for index in batch]
        # Once part of the context is settled, a window begins later and its block earlier; FunASR goes by the
        # whole context all the same.
        begins = [len(streams[index].context) for index in batch]
        return [[self._marks[mark] for mark in marks] for marks in self._network.predict(windows, begins)]
