"""The Qwen3 models' forward pass for training: whole batches at once, with an eye on one attention head.

The package's own forward encodes one audio item at a time and cannot show a single head cheaply. These
functions use its modules and give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from starter.qwen3_batches import CHUNK_FRAMES, CHUNK_TOKENS, Audio, token_count

_GUIDED_HEAD = 0
PROBED_LAYER = 1
"""After this layer the text model's states at the audio positions are asked for the character, too."""


@dataclass(frozen=True, slots=True)
class Guide:
    """Where the guided heads should look: per query (row, position) the keys `first` to `last`, int64 [n].

    layers: how many of the last text layers have a guided head.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    layers: int


def encode(tower: Any, audio: Audio, dropout: float = 0.0) -> torch.Tensor:
    """All embeddings of a batch in order, [tokens, width]."""
    embedded = _convolve(tower, audio)
    embedded = embedded + tower.positional_embedding.positional_embedding[:CHUNK_TOKENS]
    windows, longest = len(audio.window_chunks), max(audio.window_chunks)
    counts = torch.tensor(audio.window_chunks)
    inside = torch.arange(longest)[None] < counts[:, None]
    width = embedded.shape[-1]
    hidden = embedded.new_zeros(windows, longest, CHUNK_TOKENS, width)
    hidden = hidden.masked_scatter(inside[:, :, None, None], embedded)
    lengths = torch.tensor([token_count(length) for length in audio.lengths])
    valid = torch.zeros(windows, longest, CHUNK_TOKENS, dtype=torch.bool)
    valid[inside] = torch.arange(CHUNK_TOKENS)[None] < lengths[:, None]
    hidden, valid = hidden.flatten(1, 2), valid.flatten(1, 2)
    mask = valid[:, None, None, :]
    for layer in tower.layers:
        attention = layer.self_attn
        normed = layer.self_attn_layer_norm(hidden)
        shape = (*normed.shape[:2], attention.num_heads, attention.head_dim)
        query, key, value = (
            part(normed).view(shape).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + functional.dropout(mixed, dropout)
        inner = layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        hidden = hidden + functional.dropout(inner, dropout)
    packed = tower.ln_post(hidden[valid])
    projected: torch.Tensor = tower.proj2(tower.act(tower.proj1(packed)))
    return projected


def _convolve(tower: Any, audio: Audio) -> torch.Tensor:
    """[chunks, 13, width]; a chunk that is a window by itself is convolved without padding, as the package
    does it.
    """
    alone, index = [], 0
    for count in audio.window_chunks:
        if count == 1 and audio.lengths[index] < CHUNK_FRAMES:
            alone.append(index)
        index += count
    embedded = _stem(tower, audio.chunks)
    if not alone:
        return embedded
    rows = list(embedded.unbind(0))
    for index in alone:
        short = _stem(tower, audio.chunks[index : index + 1, :, :, : audio.lengths[index]])[0]
        rows[index] = functional.pad(short, (0, 0, 0, CHUNK_TOKENS - len(short)))
    return torch.stack(rows)


def _stem(tower: Any, chunks: torch.Tensor) -> torch.Tensor:
    hidden = chunks
    for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        hidden = functional.gelu(convolution(hidden))
    embedded: torch.Tensor = tower.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
    return embedded


@dataclass(frozen=True, slots=True)
class TextStates:
    """hidden: [batch, length, width], normed. probed: states after PROBED_LAYER, normed. guidance: mean
    -log of the attention that the guided heads give to the right keys; None without a guide.
    """

    hidden: torch.Tensor
    probed: torch.Tensor
    guidance: torch.Tensor | None


def run_text(model: nn.Module, embeddings: torch.Tensor, guide: Guide | None) -> TextStates:
    """The text model over right-padded embeddings [batch, length, width] with causal attention."""
    text: Any = model
    length = embeddings.shape[1]
    cosine, sine = text.rotary_emb(embeddings, torch.arange(length)[None].expand(len(embeddings), -1))
    cosine, sine = cosine[:, None], sine[:, None]
    hidden, probed = embeddings, embeddings
    missed: list[torch.Tensor] = []
    for index, layer in enumerate(text.layers):
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (*normed.shape[:2], -1, attention.head_dim)
        query = _rotate(attention.q_norm(attention.q_proj(normed).view(shape)).transpose(1, 2), cosine, sine)
        key = _rotate(attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2), cosine, sine)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        if guide is not None and len(guide.rows) and index >= len(text.layers) - guide.layers:
            missed.append(_guidance(query[:, _GUIDED_HEAD], key[:, _GUIDED_HEAD], guide))
        mixed = functional.scaled_dot_product_attention(
            query.to(value.dtype), key.to(value.dtype), value, is_causal=True
        )
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        if index == PROBED_LAYER:
            probed = text.norm(hidden)
    return TextStates(text.norm(hidden), probed, torch.stack(missed).mean() if missed else None)


def _rotate(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    left, right = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-right, left), dim=-1) * sine


def _guidance(query: torch.Tensor, key: torch.Tensor, guide: Guide) -> torch.Tensor:
    """query, key: [batch, length, size] of the guided head."""
    every = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    scores = every[guide.rows, guide.positions].float()
    places = torch.arange(key.shape[1])[None]
    logs = scores.masked_fill(places > guide.positions[:, None], -1e4).log_softmax(-1)
    outside = (places < guide.first[:, None]) | (places > guide.last[:, None])
    missed: torch.Tensor = -logs.masked_fill(outside, -1e4).logsumexp(-1).mean()
    return missed
