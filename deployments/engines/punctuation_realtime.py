"""Punctuation of live text by FunASR's streaming CT-Transformer: the next blocks of many streams, batched.

Chen et al., "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and Disfluency
Detection", arXiv:2003.01309. What a block is shown, and what is carried to the next one, is that of FunASR's
``CTTransformerStreaming.inference``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch

from deployments.engines.base import PunctuatedBlock, PunctuationBlock
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_model_files
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
from deployments.engines.sanm import Linear, Placement, Rows
from deployments.engines.sanm_vad import SanmVadEncoder


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


class CtRealtimePunctuationEngine:
    """A :class:`~deployments.engines.base.RealtimePunctuationEngine` over a ``CTTransformerStreaming``.

    Tokens are looked up, and words of several tokens get their marks, as in
    :class:`~deployments.engines.punctuation_ct.CtPunctuationEngine`. ``threads`` is how many torch uses in
    this process from now on.

    Raises:
        ModelFilesError: the directory does not hold such a model.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        self._threads = threads
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        kind = files.config["model"], files.config.get("encoder")
        if kind != ("CTTransformerStreaming", "SANMVadEncoder") or "<unk>" not in files.tokens:
            problem = "is not a CTTransformerStreaming over a SANMVadEncoder with <unk> in its vocabulary"
            raise ModelFilesError(files.directory, problem, SAME_MODEL)
        self._marks = read_marks(files)
        self._ids = {token: index for index, token in enumerate(files.tokens)}
        self._device = torch.device(device)
        self._load_network(files)

    def _load_network(self, files: ModelFiles) -> None:
        model, encoder, source = files.section("model_conf"), files.section("encoder_conf"), files.parameters
        width, at = int(model.get("embed_unit", 128)), Placement(torch.float32, self._device)
        self._embedding = source.take("embed.weight", len(files.tokens), width).to(self._device)
        self._encoder = SanmVadEncoder(source, "encoder.", width, encoder, at)
        self._decoder = Linear.load(source, "decoder", (len(self._marks), self._encoder.size), at)

    def punctuate(self, blocks: Sequence[PunctuationBlock]) -> list[PunctuatedBlock]:
        """The marks of each block, and what to pass on with the next block of its stream.

        Takes time linear in the length of a block. The context of the result never holds more than 400
        tokens: in a stream without any mark it is cut to its last 200, where FunASR's grows without end.
        """
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        streams = [self._stream(block) for block in blocks]
        mark_all([stream.text for stream in streams], lambda batch: self._predict(streams, batch))
        return [stream.result() for stream in streams]

    def _stream(self, block: PunctuationBlock) -> _Stream:
        context, tokens = units(block.context), units(block.words)
        ids = [token_id(self._ids, token) for token in context + tokens]
        return _Stream(block, context, tokens, Text(ids))

    @torch.inference_mode()
    def _predict(self, streams: Sequence[_Stream], batch: Sequence[int]) -> list[list[str]]:
        """The likeliest mark after each token of the windows of some of the streams."""
        windows = [streams[index].text.window() for index in batch]
        lengths = [len(window) for window in windows]
        # Once part of the context is settled, a window begins later and its block earlier; FunASR goes by the
        # whole context all the same.
        begins = [len(streams[index].context) for index in batch]
        ids = torch.tensor(list(chain.from_iterable(windows)), device=self._device)
        encoded = self._encoder(self._embedding[ids], Rows(lengths, self._device), begins)
        best = iter(self._decoder(encoded).argmax(dim=1).tolist())
        return [[self._marks[mark] for mark in islice(best, length)] for length in lengths]
