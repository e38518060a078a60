"""Qwen3-ASR's network on rows of different lengths, none of them padded, each at a place of its own.

The tokens of all rows lie below each other in one sequence. All products with weights see that sequence;
attention, alone, sees rows. So rows may join and leave at each step, some may read their prompt while
others write, and none depends on another. The layers are those of the qwen-asr package; attention is put in
by transformers' ``AttentionInterface``, which exists for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.qwen3_windows import embeddings_of_frames

ATTENTION = "asr_serve_ragged"
"""The name of :func:`ragged_attention` in transformers' registry."""

_ENCODER_CHUNK = SAMPLE_RATE
"""Windows of a second or more may share a call: all convolutions have the same width then."""


class KeyValues:
    """What attention remembers of one row, for all layers."""

    def __init__(self, like: "KeyValueShape", capacity: int) -> None:
        """``capacity``: tokens that there is place for. What is never written to costs no memory on a CPU."""
        shape = (like.layers, 2, like.heads, capacity, like.size)
        self.store = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, ``(heads, tokens, size)``, with those of new tokens at the end.

        They count only after :meth:`advance`, so a step that failed can be made again.
        """
        end = self.length + key.shape[1]
        self.store[layer, 0, :, self.length : end] = key
        self.store[layer, 1, :, self.length : end] = value
        return self.store[layer, 0, :, :end], self.store[layer, 1, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def copied(self, begin: int, end: int) -> Tensor:
        """What is remembered of tokens ``begin`` to ``end``."""
        return self.store[..., begin:end, :].clone()

    def restore(self, block: Tensor) -> None:
        """Go on as if the tokens of a :meth:`copied` block had been read."""
        end = self.length + block.shape[-2]
        self.store[..., self.length : end, :] = block
        self.length = end


@dataclass(frozen=True, slots=True)
class KeyValueShape:
    """How large the memory of one token is."""

    layers: int
    heads: int
    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return 2 * self.layers * self.heads * self.size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Part:
    """The next tokens of a row: embeddings of shape ``(tokens, width)``, and the row's memory."""

    embeddings: Tensor
    memory: KeyValues


class RaggedModel:
    """The three things that the engine asks of the package's model."""

    def __init__(self, model: Any, processor: Any) -> None:
        """``model``: loaded with :data:`ATTENTION`."""
        thinker = model.thinker
        self._thinker, self._extractor = thinker, processor.feature_extractor
        self._device, self._dtype = model.device, model.dtype
        config = thinker.config.text_config
        self.max_positions = int(config.max_position_embeddings)
        self.vocabulary_size = int(config.vocab_size)
        self.shape = KeyValueShape(
            config.num_hidden_layers, config.num_key_value_heads, config.head_dim, self._dtype, self._device
        )

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        """Embeddings of text tokens, shape ``(tokens, width)``."""
        ids = torch.tensor(token_ids, dtype=torch.long, device=self._device)
        embedded: Tensor = self._thinker.get_input_embeddings()(ids)
        return embedded

    def encode(self, windows: Sequence[Pcm]) -> list[Tensor]:
        """Embeddings of each window of audio, shape ``(tokens, width)``; see :mod:`.qwen3_windows`."""
        together = [at for at, window in enumerate(windows) if len(window) >= _ENCODER_CHUNK]
        groups = [together] if together else []
        groups += [[at] for at, window in enumerate(windows) if len(window) < _ENCODER_CHUNK]
        encoded: dict[int, Tensor] = {}
        for group in groups:
            features = [self._features(windows[at]) for at in group]
            lengths = torch.tensor([feature.shape[1] for feature in features], device=self._device)
            rows = self._thinker.audio_tower(
                torch.cat(features, dim=1), feature_lens=lengths
            ).last_hidden_state
            counts = [embeddings_of_frames(feature.shape[1]) for feature in features]
            encoded.update(zip(group, rows.split(counts), strict=True))
        return [encoded[at] for at in range(len(windows))]

    def forward(self, parts: Sequence[Part]) -> tuple[list[int], list[float]]:
        """Read the parts; the likeliest token after each, and its log-probability."""
        begins = [part.memory.length for part in parts]
        counts = [len(part.embeddings) for part in parts]
        positions = torch.cat(
            [torch.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)]
        ).to(self._device)
        hidden = self._thinker.model(
            inputs_embeds=torch.cat([part.embeddings for part in parts])[None],
            position_ids=positions.expand(3, 1, -1),
            use_cache=False,
            parts=parts,
        ).last_hidden_state[0]
        last = torch.tensor(counts, device=self._device).cumsum(0) - 1
        log_probs = self._thinker.lm_head(hidden[last]).float().log_softmax(dim=-1)
        best = log_probs.max(dim=-1)
        for part, count in zip(parts, counts, strict=True):
            part.memory.advance(count)
        return best.indices.tolist(), best.values.tolist()

    def _features(self, window: Pcm) -> Tensor:
        """Log-mel features, normalized within the window, shape ``(mels, frames)``."""
        samples = window.astype(np.float32) / 32768
        features = self._extractor(
            samples, sampling_rate=SAMPLE_RATE, padding=True, truncation=False, return_tensors="pt"
        )["input_features"][0]
        row: Tensor = features.to(self._device, self._dtype)
        return row


def register() -> None:
    """Make :data:`ATTENTION` known to transformers. May be done again."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, ragged_attention)


def ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    parts: Sequence[Part] | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within rows. All of ``(1, heads, tokens, size)``; the result ``(1, tokens, heads, size)``.

    Of the text network, ``parts`` tell the rows; of the encoder, the bounds in ``cu_seq_lens_q`` do. Without
    either, it is causal attention as usual.
    """
    if parts is not None:
        counts = [len(part.embeddings) for part in parts]
        split = zip(
            parts, query.split(counts, 2), key[0].split(counts, 1), value[0].split(counts, 1), strict=True
        )
        attended = [
            _attend(q, *part.memory.extended(module.layer_idx, k, v), scaling=scaling)
            for part, q, k, v in split
        ]
    elif cu_seq_lens_q is not None:
        bounds = cu_seq_lens_q.diff().tolist()
        rows = zip(query.split(bounds, 2), key.split(bounds, 2), value.split(bounds, 2), strict=True)
        attended = [scaled_dot_product_attention(*row, scale=scaling) for row in rows]
    else:
        attended = [
            scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def _attend(query: Tensor, keys: Tensor, values: Tensor, *, scaling: float) -> Tensor:
    """New tokens of one row, ``(1, heads, tokens, size)``, on all of its keys and values."""
    heads, new, total = query.shape[1], query.shape[2], keys.shape[1]
    if new == 1:
        # Heads that share keys as positions of one head: PyTorch's own grouping is six times as slow in bf16.
        query = query.view(1, keys.shape[0], -1, query.shape[3])
        attended = scaled_dot_product_attention(query, keys[None], values[None], scale=scaling)
        return attended.reshape(1, heads, 1, -1)
    mask = None
    if new < total:
        mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    return scaled_dot_product_attention(
        query,
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=heads != keys.shape[0],
    )
