"""ONNX graphs of Paraformers for live streams: ``model.onnx`` up to the weights of frames, ``decoder.onnx``.

The decoder is FunASR's module for export. Its encoder for export sees nothing but the chunk; this one also
takes what streams remember, so that it finds what PyTorch finds.
"""

from typing import Any

import torch
from torch import Tensor, nn

from deployments.engines.loading import FunAsrModel
from deployments.engines.onnx_export_paraformer_predictor import weigh

KEYS, NEW_KEYS = "in_keys", "out_keys"
"""Keys and values side by side, ``(layers, batch, frames, 2 * size)``: of earlier frames, and of new ones."""

_MASKED = -10_000.0


class StreamEncoderGraph(nn.Module):
    """``speech``, ``speech_lengths`` and ``in_keys`` to ``enc``, ``enc_len``, ``alphas`` and ``out_keys``.

    ``speech`` is scaled and has its positions added already, as with FunASR's graph, whose names these are
    but for the keys.
    """

    def __init__(self, model: FunAsrModel) -> None:
        super().__init__()
        network: Any = model.module
        encoder = network.encoder
        self.blocks = nn.ModuleList([*encoder.encoders0, *encoder.encoders])
        self.norm: nn.Module = encoder.after_norm
        self.predictor: Any = network.predictor
        attention = encoder.encoders[0].self_attn
        self.heads, self.size = int(attention.h), int(attention.h * attention.d_k)
        features = int(encoder.encoders0[0].in_size)
        keys = torch.randn(len(self.blocks), 2, 7, 2 * self.size)
        self.example = torch.randn(2, 15, features), torch.tensor([15, 12], dtype=torch.int32), keys
        self.inputs = ("speech", "speech_lengths", KEYS)
        self.outputs = ("enc", "enc_len", "alphas", NEW_KEYS)
        frames = {0: "batch_size", 1: "feats_length"}
        self.axes: dict[str, dict[int, str]] = {
            "speech": frames,
            "speech_lengths": {0: "batch_size"},
            KEYS: {1: "batch_size", 2: "keys_length"},
            "enc": frames,
            "enc_len": {0: "batch_size"},
            "alphas": frames,
            NEW_KEYS: {1: "batch_size", 2: "feats_length"},
        }

    def forward(self, speech: Tensor, speech_lengths: Tensor, in_keys: Tensor) -> tuple[Tensor, ...]:
        mask = (torch.arange(0, speech.shape[1]) < speech_lengths[:, None]).float()
        earlier = torch.zeros(speech.shape[0], in_keys.shape[2])
        offsets = torch.cat([earlier, (1 - mask) * _MASKED], dim=1)[:, None, None]
        x, new = speech, []
        for index, block in enumerate(self.blocks):
            x, keys = self._block(block, x, in_keys[index], mask[:, :, None], offsets)
            new.append(keys)
        x = self.norm(x)
        return x, speech_lengths, weigh(self.predictor, x)[1] * mask, torch.stack(new)

    def _block(
        self, block: Any, x: Tensor, known: Tensor, mask: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        attention = block.self_attn
        query, key, value = attention.linear_q_k_v(block.norm1(x)).split(self.size, dim=-1)
        new = torch.cat([key, value], dim=-1)
        keys, values = torch.cat([known, new], dim=1).split(self.size, dim=-1)
        query = self._by_head(query) * (self.size // self.heads) ** -0.5
        scores = query @ self._by_head(keys).transpose(-2, -1) + offsets
        heard = (torch.softmax(scores, -1) @ self._by_head(values)).transpose(1, 2).flatten(2)
        value = value * mask
        memory = attention.fsmn_block(attention.pad_fn(value.transpose(1, 2))).transpose(1, 2) + value
        attended = attention.linear_out(heard) + memory * mask
        x = x + attended if block.in_size == block.size else attended
        x = x + block.feed_forward(block.norm2(x))
        return x, new

    def _by_head(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (self.heads, self.size // self.heads))
        return heads.transpose(1, 2)


class StreamDecoderGraph(nn.Module):
    """FunASR's graph: encoder rows, embeddings and memories to ``logits``, ``sample_ids`` and memories."""

    def __init__(self, model: FunAsrModel) -> None:
        super().__init__()
        from funasr.register import tables

        network: Any = model.module
        self.decoder: Any = tables.decoder_classes["ParaformerSANMDecoderOnlineExport"](
            network.decoder, onnx=True
        )
        self.example: tuple[Tensor, ...] = self.decoder.get_dummy_inputs(network.encoder._output_size)
        self.inputs: list[str] = self.decoder.get_input_names()
        self.outputs: list[str] = self.decoder.get_output_names()
        self.axes: dict[str, dict[int, str]] = {
            **self.decoder.get_dynamic_axes(),
            "logits": {0: "batch_size", 1: "token_length"},
            "sample_ids": {0: "batch_size", 1: "token_length"},
        }

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        scores, memories = self.decoder(*inputs)
        return scores, scores.argmax(dim=-1), *memories
