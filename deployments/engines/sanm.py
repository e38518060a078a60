"""The SAN-M encoder and the Paraformer decoder for inference on whole batches, without padding.

The computation is that of FunASR's ``SANMEncoder`` (Gao et al., "SAN-M: Memory Equipped Self-Attention for
End-to-End Speech Recognition", arXiv:2006.01713) and ``ParaformerSANMDecoder`` (arXiv:2206.08317) on the
same parameters; what differs is the layout. The rows of all segments lie one below the other in one matrix,
so that linear layers waste nothing on padding and no mask exists that could be wrong: only attention and
the memory block (a depthwise convolution over time) look at where a segment begins and ends.

The residual stream, the normalizations and the results are fp32; matrix products run in ``dtype``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.model_files import SAME_MODEL, ModelFilesError, Parameters

_EPSILON = 1e-12


class Rows:
    """Where each segment's rows lie in a matrix that holds all of them, one below the other."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.device = device
        self._spread: dict[tuple[int, int], tuple[Tensor, int]] = {}

    def spread(self, left: int, right: int) -> tuple[Tensor, int]:
        """A layout with enough zero rows around each segment for a window of ``left + 1 + right`` rows.

        Returns each row's place in it, shape ``(rows,)``, int64, and its number of rows.
        """
        if (left, right) not in self._spread:
            gap = max(left, right)
            begins = [0, *accumulate(length + gap for length in self.lengths)]
            places = [
                torch.arange(begin, begin + length)
                for begin, length in zip(begins, self.lengths, strict=False)
            ]
            index = (left + torch.cat(places)).to(self.device)
            self._spread[left, right] = index, left + begins[-1] - gap + right
        return self._spread[left, right]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where parameters live and in what precision matrix products run."""

    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Linear:
    """An affine map; ``weight`` has shape ``(out, in)``."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    @classmethod
    def load(
        cls, source: Parameters, name: str, shape: tuple[int, int], at: Placement, *, bias: bool = True
    ) -> "Linear":
        weight = source.take(f"{name}.weight", *shape).to(at.device, at.dtype)
        return cls(weight, source.take(f"{name}.bias", shape[0]).to(at.device, at.dtype) if bias else None)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalization in fp32 whatever its input is; the result has the input's dtype."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPSILON)

    @classmethod
    def load(cls, source: Parameters, name: str, size: int, at: Placement) -> "Norm":
        weight, bias = (source.take(f"{name}.{part}", size).to(at.device) for part in ("weight", "bias"))
        return cls(weight, bias)


@dataclass(frozen=True, slots=True)
class Memory:
    """The FSMN memory block: a depthwise convolution over time, plus its input.

    ``weight`` has shape ``(size, 1, 1, taps)`` in channels-last memory, in which time-major rows need no
    transposition (on a CPU, 3.5x faster than a ``conv1d`` of the same rows).
    """

    weight: Tensor
    left: int

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        taps = self.weight.shape[-1]
        places, total = rows.spread(self.left, taps - 1 - self.left)
        spread = x.new_zeros(total, x.shape[1]).index_copy_(0, places, x)
        image = spread.t()[None, :, None]
        out: Tensor = F.conv2d(image, self.weight, groups=x.shape[1])
        return out[0, :, 0].t().index_select(0, places - self.left).add_(x)

    @classmethod
    def load(cls, source: Parameters, name: str, size: int, conf: dict[str, Any], at: Placement) -> "Memory":
        taps = int(conf["kernel_size"])
        shift = conf.get("sanm_shfit")
        # FunASR's decoder reads a null shift as half the window; zero and negative mean centered.
        shift = (taps - 1) // 2 if shift is None else max(int(shift), 0)
        weight = source.take(f"{name}.weight", size, 1, taps)[:, :, None].to(at.device, at.dtype)
        return cls(weight.contiguous(memory_format=torch.channels_last), (taps - 1) // 2 + shift)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one segment, queries scaled already: all ``(heads, rows, size)``, also the result.

    Plain products, because the CPU's fused kernel is 1.5 to 2x slower in bf16 at these sizes.
    """
    return torch.bmm(torch.softmax(torch.bmm(query, key.transpose(1, 2)), -1), value)


def _heads(x: Tensor, heads: int) -> Tensor:
    """``(rows, heads * size)`` to contiguous ``(heads, rows, size)``."""
    return x.reshape(len(x), heads, x.shape[1] // heads).transpose(0, 1).contiguous()


def _scaled(linear: Linear, rows: int, factor: float) -> Linear:
    """``linear`` with its first ``rows`` outputs multiplied by ``factor``."""
    weight, bias = linear.weight.clone(), linear.bias
    weight[:rows] *= factor
    if bias is not None:
        bias = bias.clone()
        bias[:rows] *= factor
    return Linear(weight, bias)


class EncoderBlock:
    """Self-attention with an FSMN memory, then a feed-forward layer, both normalized before."""

    def __init__(
        self, source: Parameters, name: str, input_size: int, conf: dict[str, Any], at: Placement
    ) -> None:
        size, units = int(conf["output_size"]), int(conf["linear_units"])
        self._heads = int(conf["attention_heads"])
        self._keeps_input = input_size == size
        exact = Placement(torch.float32, at.device)
        qkv = Linear.load(source, f"{name}.self_attn.linear_q_k_v", (3 * size, input_size), exact)
        qkv = _scaled(qkv, size, (size // self._heads) ** -0.5)
        assert qkv.bias is not None
        self._qkv = Linear(qkv.weight.to(at.dtype), qkv.bias.to(at.dtype))
        self._memory = Memory.load(source, f"{name}.self_attn.fsmn_block", size, conf, at)
        self._out = Linear.load(source, f"{name}.self_attn.linear_out", (size, size), at)
        self._norm1 = Norm.load(source, f"{name}.norm1", input_size, at)
        self._norm2 = Norm.load(source, f"{name}.norm2", size, at)
        self._up = Linear.load(source, f"{name}.feed_forward.w_1", (units, size), at)
        self._down = Linear.load(source, f"{name}.feed_forward.w_2", (size, units), at)

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """``x``: fp32, shape ``(rows, size)``; may be changed in place and returned."""
        query, key, value = self._qkv(self._norm1(x)).chunk(3, dim=1)
        attended = [
            attend(*(_heads(part, self._heads) for part in parts)).transpose(0, 1).flatten(1)
            for parts in zip(*(part.split(rows.lengths) for part in (query, key, value)), strict=True)
        ]
        attention = self._out(torch.cat(attended))
        memory = self._memory(value, rows)
        x = x.add_(attention).add_(memory) if self._keeps_input else attention.float().add_(memory)
        return x.add_(self._down(F.relu_(self._up(self._norm2(x)))))


class SanmEncoder:
    """A stack of :class:`EncoderBlock` over position-encoded features."""

    def __init__(
        self, source: Parameters, prefix: str, input_size: int, conf: dict[str, Any], at: Placement
    ) -> None:
        """``conf`` is the ``encoder_conf`` of a FunASR ``SANMEncoder``, ``prefix`` as in ``"encoder."``.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or ``conf`` asks for a variant that is
                not implemented here.
        """
        _only(source, conf, "input_layer", "pe")
        _only(source, conf, "selfattention_layer_type", "sanm")
        _only(source, conf, "positionwise_layer_type", "linear")
        _only_plain_blocks(source, conf)
        self.size = int(conf["output_size"])
        self._blocks = [EncoderBlock(source, f"{prefix}encoders0.0", input_size, conf, at)]
        self._blocks += [
            EncoderBlock(source, f"{prefix}encoders.{index}", self.size, conf, at)
            for index in range(int(conf["num_blocks"]) - 1)
        ]
        self._norm = Norm.load(source, f"{prefix}after_norm", self.size, at)

    def __call__(self, features: Tensor, rows: Rows) -> Tensor:
        """Encode segments given one below the other: fp32 ``(rows, features)`` to fp32 ``(rows, size)``."""
        positions = position_encoding(max(rows.lengths), features.shape[1], features.device)
        x = features * self.size**0.5 + torch.cat([positions[:length] for length in rows.lengths])
        for block in self._blocks:
            x = block(x, rows)
        return self._norm(x)


def position_encoding(length: int, size: int, device: torch.device) -> Tensor:
    """Sinusoids, first all sines then all cosines, for positions counted from 1: fp32 ``(length, size)``.

    As in FunASR's ``SinusoidalPositionEncoder``, which follows tensor2tensor's ``get_timing_signal``.
    """
    half = torch.arange(size // 2, dtype=torch.float32, device=device)
    scales = torch.exp(half * (-torch.log(torch.tensor(10_000.0, device=device)) / (size / 2 - 1)))
    angles = torch.arange(1, length + 1, dtype=torch.float32, device=device)[:, None] * scales
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class DecoderBlock:
    """Feed-forward, then an FSMN memory, then attention to the encoder's rows; any but the first optional."""

    def __init__(
        self,
        source: Parameters,
        name: str,
        size: int,
        conf: dict[str, Any],
        at: Placement,
        *,
        memory: bool = True,
        attention: bool = True,
    ) -> None:
        units = int(conf["linear_units"])
        self._heads = int(conf["attention_heads"])
        self._norm1 = Norm.load(source, f"{name}.norm1", size, at)
        self._up = Linear.load(source, f"{name}.feed_forward.w_1", (units, size), at)
        self._inner = Norm.load(source, f"{name}.feed_forward.norm", units, at)
        self._down = Linear.load(source, f"{name}.feed_forward.w_2", (size, units), at, bias=False)
        self._memory: Memory | None = None
        self._query: Linear | None = None
        if memory:
            self._memory = Memory.load(source, f"{name}.self_attn.fsmn_block", size, conf, at)
            self._norm2 = Norm.load(source, f"{name}.norm2", size, at)
        if attention:
            exact = Placement(torch.float32, at.device)
            query = Linear.load(source, f"{name}.src_attn.linear_q", (size, size), exact)
            query = _scaled(query, size, (size // self._heads) ** -0.5)
            assert query.bias is not None
            self._query = Linear(query.weight.to(at.dtype), query.bias.to(at.dtype))
            self._key_value = Linear.load(source, f"{name}.src_attn.linear_k_v", (2 * size, size), at)
            self._out = Linear.load(source, f"{name}.src_attn.linear_out", (size, size), at)
            self._norm3 = Norm.load(source, f"{name}.norm3", size, at)

    def __call__(self, x: Tensor, rows: Rows, encoded: Tensor, encoded_rows: Rows) -> Tensor:
        """``x``: fp32 ``(tokens, size)``; ``encoded``: ``(rows, size)`` in the dtype of products."""
        fed = self._down(self._inner(F.relu_(self._up(self._norm1(x)))))
        if self._memory is None:
            return fed.float()
        x = x + self._memory(self._norm2(fed.float()).to(encoded.dtype), rows)
        if self._query is None:
            return x
        query = self._query(self._norm3(x)).split(rows.lengths)
        key, value = self._key_value(encoded).chunk(2, dim=1)
        keys, values = key.split(encoded_rows.lengths), value.split(encoded_rows.lengths)
        attended = [
            attend(*(_heads(part, self._heads) for part in parts)).transpose(0, 1).flatten(1)
            for parts in zip(query, keys, values, strict=True)
        ]
        return x.add_(self._out(torch.cat(attended)))


class ParaformerDecoder:
    """Turns acoustic embeddings, one for each token, into log-probabilities over the vocabulary."""

    def __init__(
        self,
        source: Parameters,
        prefix: str,
        size: int,
        vocabulary: int,
        conf: dict[str, Any],
        at: Placement,
    ) -> None:
        """``conf`` is the ``decoder_conf`` of a FunASR ``ParaformerSANMDecoder``.

        Raises:
            ModelFilesError: as for :class:`SanmEncoder`.
        """
        _only_plain_blocks(source, conf)
        attending, total = int(conf.get("att_layer_num", 6)), int(conf["num_blocks"])
        self._dtype = at.dtype
        self._blocks = [
            DecoderBlock(source, f"{prefix}decoders.{index}", size, conf, at) for index in range(attending)
        ]
        self._blocks += [
            DecoderBlock(
                source, f"{prefix}decoders2.{index}", size, {**conf, "sanm_shfit": 0}, at, attention=False
            )
            for index in range(total - attending)
        ]
        last = f"{prefix}decoders3.0"
        self._blocks.append(DecoderBlock(source, last, size, conf, at, memory=False, attention=False))
        self._norm = Norm.load(source, f"{prefix}after_norm", size, at)
        # In fp32: rounded to bf16, two likely tokens would often tie. It costs 1 % of the whole.
        exact = Placement(torch.float32, at.device)
        self._output = Linear.load(source, f"{prefix}output_layer", (vocabulary, size), exact)

    def __call__(self, embeddings: Tensor, rows: Rows, encoded: Tensor, encoded_rows: Rows) -> Tensor:
        """fp32 ``(tokens, size)`` to fp32 log-probabilities ``(tokens, vocabulary)``."""
        encoded = encoded.to(self._dtype)
        x = embeddings
        for block in self._blocks:
            x = block(x, rows, encoded, encoded_rows)
        return torch.log_softmax(self._output(self._norm(x)), dim=-1)


def _only(source: Parameters, conf: dict[str, Any], key: str, supported: object) -> None:
    if conf.get(key, supported) != supported:
        problem = f"{key}: {conf[key]} in config.yaml is not supported, only {supported}"
        raise ModelFilesError(source.path.parent, problem, SAME_MODEL)


def _only_plain_blocks(source: Parameters, conf: dict[str, Any]) -> None:
    _only(source, conf, "normalize_before", True)
    _only(source, conf, "concat_after", False)
    _only(source, conf, "lora_list", None)
