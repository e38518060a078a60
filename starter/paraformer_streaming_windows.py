"""Training's view of a live session: all chunks at once, with the numbers that FunASR gets one by one.

FunASR's own training forward masks one long sequence, which differs from `generate(cache=...)` at the begin
(zero frames come before the first), at the end (the last chunk has no look-ahead of its own), in the frames
that a look-back sees, and in the memory of the decoder, which is that of the last chunk with a token. A model
trained with those masks invents a first token when it runs live. Here every chunk is a window of its own, cut
and joined to its look-back as the caches of `SANMEncoderChunkOpt.forward_chunk`,
`CifPredictorV2.forward_chunk` and `ParaformerSANMDecoder.forward_chunk` do it, so training sees what serving
computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from funasr.models.paraformer_streaming.model import ParaformerStreaming
from funasr.models.scama.encoder import EncoderLayerSANM
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Chunking:
    """chunk_size = [left, stride, right] in 60 ms frames, and the look-back in chunks of `stride` frames.

    The decoder looks back by one chunk.
    """

    left: int = 0
    stride: int = 10
    right: int = 5
    encoder_look_back: int = 4

    @property
    def size(self) -> int:
        return self.left + self.stride + self.right

    @property
    def lead(self) -> int:
        """Zero frames before the first."""
        return self.left + self.right


@dataclass(frozen=True, slots=True)
class Windows:
    """The chunks of a batch of clips, one after the other; m of them.

    encoded: [m, size, width], zero where not valid. valid: bool [m, size]. clip, index: int64 [m], whose and
    the how-manieth chunk it is. counts: int64 [batch], chunks of a clip.
    """

    chunking: Chunking
    encoded: torch.Tensor
    valid: torch.Tensor
    clip: torch.Tensor
    index: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, slots=True)
class Stream:
    """What the predictor sees of every clip, in the order of time: `right` zero frames, then the clip's own.

    hidden: [batch, frames, width]. alphas: [batch, frames], 0 in the padding. lengths: int64 [batch].
    """

    hidden: torch.Tensor
    alphas: torch.Tensor
    lengths: torch.Tensor


def encode(
    model: ParaformerStreaming, speech: torch.Tensor, lengths: torch.Tensor, chunking: Chunking
) -> Windows:
    """Encode clips chunk by chunk. speech: [batch, frames, 560], normalized; lengths: int64 [batch]."""
    encoder = model.encoder
    embedded = encoder.embed(speech * encoder.output_size() ** 0.5)
    inside = torch.arange(speech.shape[1]) < lengths[:, None]
    counts = lengths // chunking.stride + 1
    chunks = int(counts.max())
    behind = (chunks - 1) * chunking.stride + chunking.size - chunking.lead - speech.shape[1]
    padded = functional.pad(embedded * inside[..., None], (0, 0, chunking.lead, behind))
    clip, index = torch.nonzero(torch.arange(chunks) < counts[:, None], as_tuple=True)
    x = padded.unfold(1, chunking.size, chunking.stride)[clip, index].transpose(1, 2)
    frame = index[:, None] * chunking.stride + torch.arange(chunking.size)
    valid = frame < (lengths[clip] + chunking.lead)[:, None]
    past, has_past = _look_back(index, chunking)
    allowed = torch.cat([has_past, valid], dim=1)[:, None, None, :]
    for layer in (*encoder.encoders0, *encoder.encoders):
        x = _encoder_layer(layer, x, valid, past, allowed)
    encoded = encoder.after_norm(x).float() * valid[..., None]
    return Windows(chunking, encoded, valid, clip, index, counts)


def _look_back(index: torch.Tensor, chunking: Chunking) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of all frames, [m * size], a window's cache holds: int64 and bool [m, look-back frames].

    The cache takes the frames of every window but its look-ahead, and keeps the last of them.
    """
    kept = chunking.left + chunking.stride
    back = torch.arange(chunking.encoder_look_back * chunking.stride, 0, -1)
    position = index[:, None] * kept - back
    first = torch.arange(len(index)) - index
    frame = (first[:, None] + position // kept) * chunking.size + position % kept
    return frame.clamp_min(0), position >= 0


def _encoder_layer(
    layer: EncoderLayerSANM,
    x: torch.Tensor,
    valid: torch.Tensor,
    past: torch.Tensor,
    allowed: torch.Tensor,
) -> torch.Tensor:
    attention = layer.self_attn
    windows, size, _ = x.shape
    residual = x
    query, key, value = attention.linear_q_k_v(layer.norm1(x)).chunk(3, dim=-1)
    memory = attention.forward_fsmn(value, valid.to(value.dtype))

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.reshape(windows, -1, attention.h, attention.d_k).transpose(1, 2)

    keys, values = (
        heads(torch.cat([states.reshape(windows * size, -1)[past], states], dim=1)) for states in (key, value)
    )
    mixed = functional.scaled_dot_product_attention(heads(query), keys, values, attn_mask=allowed)
    mixed = attention.linear_out(mixed.transpose(1, 2).reshape(windows, size, -1)) + memory
    mixed = layer.dropout(mixed)
    x = residual + mixed if layer.in_size == layer.size else mixed
    output: torch.Tensor = x + layer.dropout(layer.feed_forward(layer.norm2(x)))
    return output


def predict(model: ParaformerStreaming, windows: Windows) -> Stream:
    """The predictor's weights without any scaling; every frame counts in one window alone."""
    predictor, chunking = model.predictor, windows.chunking
    context = torch.relu(predictor.cif_conv1d(predictor.pad(windows.encoded.transpose(1, 2))))
    raw = torch.sigmoid(predictor.cif_output(context.transpose(1, 2))).squeeze(-1)
    slot = torch.arange(chunking.size)
    last = (windows.index == windows.counts[windows.clip] - 1)[:, None]
    counted = windows.valid & (slot >= chunking.left) & ((slot < chunking.left + chunking.stride) | last)
    frame = (windows.index[:, None] * chunking.stride + slot - chunking.left)[counted]
    clip = windows.clip[:, None].expand(-1, chunking.size)[counted]
    lengths = torch.zeros(len(windows.counts), dtype=torch.int64).index_add(0, clip, torch.ones_like(clip))
    shape = (len(lengths), int(lengths.max()))
    hidden = windows.encoded.new_zeros(*shape, windows.encoded.shape[-1])
    hidden = hidden.index_put((clip, frame), windows.encoded[counted])
    alphas = raw.new_zeros(shape).index_put((clip, frame), raw[counted])
    return Stream(hidden, alphas, lengths)


def integrate(stream: Stream, alphas: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Continuous integrate-and-fire for the first `tokens` tokens.

    alphas: [batch, frames], used instead of the stream's own. Returns the embeddings [batch, tokens, width]
    and the frame of every firing, int64 [batch, tokens].
    """
    end = alphas.cumsum(1)[:, None, :]
    begin = end - alphas[:, None, :]
    token = torch.arange(tokens)[None, :, None]
    weights = (torch.minimum(end, token + 1.0) - torch.maximum(begin, token + 0.0)).clamp_min(0)
    fired = (end < token + 1 - 1e-5).sum(-1).clamp_max(alphas.shape[1] - 1)
    return weights @ stream.hidden, fired


def decode(
    model: ParaformerStreaming,
    windows: Windows,
    embeddings: torch.Tensor,
    fired: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Token scores, [batch, tokens, vocabulary]; lengths: int64 [batch], tokens of a clip.

    A token attends to the window in which it fired, its look-ahead included, and to the last `stride` frames
    of the last window before it in which a token fired.
    """
    chunking = windows.chunking
    tokens = embeddings.shape[1]
    own = torch.minimum(fired // chunking.stride, windows.counts[:, None] - 1)
    before = functional.pad(own[:, :-1], (1, 0), value=-1)
    earlier = torch.where(own != before, before, -1).cummax(1).values
    shape = (len(windows.counts), int(windows.counts.max()), chunking.size)
    memory = windows.encoded.new_zeros(*shape, windows.encoded.shape[-1])
    memory = memory.index_put((windows.clip, windows.index), windows.encoded).flatten(1, 2)
    valid = torch.zeros(shape, dtype=torch.bool).index_put((windows.clip, windows.index), windows.valid)
    chunk = torch.arange(shape[1])
    late = torch.arange(chunking.size) >= chunking.size - chunking.stride
    seen = (own[..., None] == chunk)[..., None] | ((earlier[..., None] == chunk)[..., None] & late)
    seen = (seen & valid[:, None]).flatten(2)
    # A row of the attention without any frame would be NaN; what lies behind a clip's tokens is not used.
    seen |= (torch.arange(tokens) >= lengths[:, None])[..., None]
    full = torch.full((shape[0],), memory.shape[1])
    # The decoder wants the length of its longest row to be the number of embeddings.
    rows = torch.where(lengths == lengths.max(), tokens, lengths)
    scores: torch.Tensor = model.decoder(memory, full, embeddings, rows, seen.to(memory.dtype))[0]
    return scores


@torch.inference_mode()
def transcribe(
    model: ParaformerStreaming, speech: torch.Tensor, lengths: torch.Tensor, chunking: Chunking
) -> list[list[int]]:
    """Token ids of every clip, as `generate(cache=...)` yields them over all its chunks."""
    windows = encode(model, speech, lengths, chunking)
    stream = predict(model, windows)
    alphas = functional.pad(stream.alphas, (0, 1))
    alphas[torch.arange(len(lengths)), stream.lengths] += model.predictor.tail_threshold
    counts = alphas.sum(1).floor().long()
    tokens = max(1, int(counts.max()))
    ended = Stream(functional.pad(stream.hidden, (0, 0, 0, 1)), alphas, stream.lengths + 1)
    embeddings, fired = integrate(ended, alphas, tokens)
    ids = decode(model, windows, embeddings, fired, counts).argmax(-1)
    special = (model.blank_id, model.sos, model.eos)
    return [
        [token for token in row[:count] if token not in special]
        for row, count in zip(ids.tolist(), counts.tolist(), strict=True)
    ]
