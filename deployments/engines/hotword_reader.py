"""Hotwords as vectors, and attention to the hotwords of each segment."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deployments.engines.model_files import SAME_MODEL, ModelFilesError, Parameters
from deployments.engines.sanm import Linear, Memory, Placement, Rows, attend_segments

Ids = tuple[int, ...]
_REMEMBERED = 4096


class HotwordReader:
    """The LSTM whose last state stands for a hotword; remembers the hotwords that it read last."""

    def __init__(
        self, source: Parameters, embedding: Tensor, conf: dict[str, Any], layers: int, at: Placement
    ) -> None:
        """``embedding``: fp32 ``(vocabulary, size)``; ``conf``: the model's ``model_conf``.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or the encoder is not an LSTM.
        """
        kind = conf.get("bias_encoder_type", "lstm")
        if kind != "lstm":
            problem = f"bias_encoder_type {kind} is not supported, only lstm"
            raise ModelFilesError(source.path.parent / "config.yaml", problem, SAME_MODEL)
        both_ways, size = bool(conf.get("bias_encoder_bid", False)), embedding.shape[1]
        lstm = torch.nn.LSTM(size, size, layers, batch_first=True, bidirectional=both_ways)
        shapes = lstm.state_dict().items()
        lstm.load_state_dict(
            {name: source.take(f"bias_encoder.{name}", *value.shape) for name, value in shapes}
        )
        self._lstm = lstm.eval().requires_grad_(False).to(at.device)
        self._embedding = embedding.to(at.device)
        exact = Placement(torch.float32, at.device)
        self._project = Linear.load(source, "lstm_proj", (size, 2 * size), exact) if both_ways else None
        self._read: OrderedDict[Ids, Tensor] = OrderedDict()

    def __call__(self, hotwords: Sequence[Ids]) -> Tensor:
        """fp32 ``(hotwords, size)``; all different, none of them empty."""
        unknown = [ids for ids in hotwords if ids not in self._read]
        if unknown:
            self._read.update(zip(unknown, self._run(unknown), strict=True))
        vectors = torch.stack([self._read[ids] for ids in hotwords])
        for ids in hotwords:
            self._read.move_to_end(ids)
        while len(self._read) > _REMEMBERED:
            self._read.popitem(last=False)
        return vectors

    def _run(self, hotwords: Sequence[Ids]) -> Tensor:
        lengths = [len(ids) for ids in hotwords]
        tokens = [token for ids in hotwords for token in ids]
        embedded = self._embedding[torch.tensor(tokens, device=self._embedding.device)]
        packed = torch.nn.utils.rnn.pack_sequence(embedded.split(lengths), enforce_sorted=False)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(self._lstm(packed)[0], batch_first=True)
        last = states[torch.arange(len(hotwords)), torch.tensor(lengths) - 1]
        return last if self._project is None else self._project(last)


class HotwordAttention:
    """Attention of segments, one below the other, each to the hotwords of its own list.

    ``lengths``: the tokens of each segment. ``keys``: the rows of the hotwords that it attends to.
    ``factors``: what to add to the scores of each of them, fp32, or ``None``.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        keys: Sequence[Sequence[int]],
        heads: int,
        device: torch.device,
        factors: Sequence[Tensor] | None = None,
    ) -> None:
        self.weights: list[Tensor] = []
        self._rows, self._keys = Rows(lengths, device), Rows([len(key) for key in keys], device)
        self._places = torch.tensor([place for key in keys for place in key], device=device)
        self._heads, self._factors = heads, factors

    def __call__(self, query: Tensor, key_value: Tensor) -> Tensor:
        """As :class:`DecoderBlock` takes it; ``key_value``: a row for each hotword of the call."""
        key, value = key_value.index_select(0, self._places).chunk(2, dim=1)
        if self._factors is None:
            return attend_segments(query, self._rows, key, value, self._keys, self._heads)
        values = value.split(self._keys.lengths)
        return torch.cat(
            [
                (weights.to(part.dtype) @ self._by_head(part)).transpose(0, 1).flatten(1)
                for weights, part in zip(self._softmax(query, key, self._factors), values, strict=True)
            ]
        )

    def weigh(self, query: Tensor, key_value: Tensor) -> Tensor:
        """As a call; keeps in ``weights`` what attention each hotword gets, heads and tokens together."""
        key, _ = key_value.index_select(0, self._places).chunk(2, dim=1)
        self.weights = [part.sum(dim=(0, 1)) for part in self._softmax(query, key, None)]
        return self(query, key_value)

    def remember(self, memory: Memory, x: Tensor) -> Tensor:
        """Applies a memory block to each segment's rows."""
        return memory(x, self._rows)

    def _softmax(self, query: Tensor, key: Tensor, factors: Sequence[Tensor] | None) -> list[Tensor]:
        """Each segment's attention: fp32 ``(heads, tokens, hotwords)``."""
        parts = zip(query.split(self._rows.lengths), key.split(self._keys.lengths), strict=True)
        scores = [(self._by_head(q) @ self._by_head(k).transpose(1, 2)).float() for q, k in parts]
        if factors is not None:
            scores = [score + factor for score, factor in zip(scores, factors, strict=True)]
        return [torch.softmax(score, dim=-1) for score in scores]

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self._heads, x.shape[1] // self._heads).transpose(0, 1)
