"""The SAN-M encoder, and the layers it is made of, for inference on whole batches without padding.

The computation is that of FunASR's ``SANMEncoder`` (Gao et al., "SAN-M: Memory Equipped Self-Attention for
End-to-End Speech Recognition", arXiv:2006.01713) on the same parameters; what differs is the layout. The
rows of all segments lie one below the other in one matrix, so that linear layers waste nothing on padding
and no mask exists that could be wrong: only attention and the memory block (a depthwise convolution over
time) look at where a segment begins and ends.

The residual stream, the normalizations and the results are fp32; matrix products run in ``dtype``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.model_files import SAME_MODEL, ModelFilesError, Parameters
from deployments.engines.precision import has_fast_bf16

EPSILON = 1e-12
"""What layer normalization adds to a variance, in most of FunASR's networks."""

_QUERY_BLOCK = 512
_PACKED_FOR_ROWS = 512


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
    """An affine map; ``weight`` has shape ``(out, in)`` and may be packed (:func:`pack`)."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.weight.is_mkldnn:
            activation = "relu" if relu else "none"
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], "")
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.relu_(out) if relu else out

    @classmethod
    def load(
        cls,
        source: Parameters,
        name: str,
        shape: tuple[int, int],
        at: Placement,
        *,
        bias: bool = True,
        scaled: tuple[int, float] = (0, 1.0),
    ) -> "Linear":
        """Read ``name``; the first ``scaled[0]`` outputs are multiplied by ``scaled[1]``, before rounding."""
        factors = torch.ones(shape[0])
        factors[: scaled[0]] = scaled[1]
        weight = source.take(f"{name}.weight", *shape) * factors[:, None]
        offset = source.take(f"{name}.bias", shape[0]) * factors if bias else None
        placed = None if offset is None else offset.to(at.device, at.dtype)
        return cls(pack(weight.to(at.device, at.dtype)), placed)


def pack(weight: Tensor) -> Tensor:
    """A weight in the order in which oneDNN's bf16 product reads it; as it is, where there is no such order.

    Otherwise each call would reorder it anew: 6 to 9 % of the encoder's time. The product is the same to the
    last bit. (The two operators are those that ``torch.compile`` uses when weights are frozen.)
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not has_fast_bf16(weight.device):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
    return packed


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalization in fp32 whatever its input is; the result has the input's dtype."""

    weight: Tensor
    bias: Tensor
    epsilon: float = EPSILON

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    @classmethod
    def load(
        cls, source: Parameters, name: str, size: int, at: Placement, epsilon: float = EPSILON
    ) -> "Norm":
        weight, bias = (source.take(f"{name}.{part}", size).to(at.device) for part in ("weight", "bias"))
        return cls(weight, bias, epsilon)


@dataclass(frozen=True, slots=True)
class Memory:
    """The FSMN memory block: a depthwise convolution over time, plus its input.

    ``weight`` has shape ``(size, 1, 1, taps)`` in channels-last memory, in which time-major rows need no
    transposition (on a CPU, 3.5x faster than a ``conv1d`` of the same rows).
    """

    weight: Tensor
    left: int

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        places, total = rows.spread(self.left, self.taps - 1 - self.left)
        spread = x.new_zeros(total, x.shape[1]).index_copy_(0, places, x)
        return self.convolve(spread).index_select(0, places - self.left).add_(x)

    @property
    def taps(self) -> int:
        """The width of the window."""
        return self.weight.shape[-1]

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution alone, without anything around ``x``: ``taps - 1`` rows fewer."""
        # With these strides even in the dimensions of size 1, PyTorch sees that the memory is channels-last;
        # otherwise it copies, which takes four times as long as the convolution.
        image = x.view(1, 1, *x.shape).permute(0, 3, 1, 2)
        out: Tensor = F.conv2d(image, self.weight, groups=x.shape[1])
        return out.permute(0, 2, 3, 1).view(-1, x.shape[1])

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

    Plain products, because the CPU's fused kernel is 1.5 to 2x slower in bf16 at these sizes; in blocks of
    queries, because their scores then stay in cache (a third less time for 60 s and above) and memory does
    not grow with the square of the length.
    """
    across = key.transpose(1, 2)
    blocks = [
        torch.bmm(torch.softmax(torch.bmm(block, across), -1), value)
        for block in query.split(_QUERY_BLOCK, dim=1)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def attend_segments(query: Tensor, rows: Rows, key: Tensor, value: Tensor, to: Rows, heads: int) -> Tensor:
    """Attention of each segment's ``rows`` to the same segment's rows ``to``; all ``(rows, size)``."""

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(len(x), heads, x.shape[1] // heads).transpose(0, 1).contiguous()

    parts = zip(query.split(rows.lengths), key.split(to.lengths), value.split(to.lengths), strict=True)
    return torch.cat([attend(*map(by_head, part)).transpose(0, 1).flatten(1) for part in parts])


class EncoderBlock:
    """Self-attention with an FSMN memory, then a feed-forward layer, both normalized before."""

    def __init__(
        self,
        source: Parameters,
        name: str,
        input_size: int,
        conf: dict[str, Any],
        at: Placement,
        epsilon: float = EPSILON,
    ) -> None:
        size, units = int(conf["output_size"]), int(conf["linear_units"])
        self._heads = int(conf["attention_heads"])
        self._keeps_input = input_size == size
        self._qkv = Linear.load(
            source,
            f"{name}.self_attn.linear_q_k_v",
            (3 * size, input_size),
            at,
            scaled=(size, (size // self._heads) ** -0.5),
        )
        self._memory = Memory.load(source, f"{name}.self_attn.fsmn_block", size, conf, at)
        self._out = Linear.load(source, f"{name}.self_attn.linear_out", (size, size), at)
        self._norm1 = Norm.load(source, f"{name}.norm1", input_size, at, epsilon)
        self._norm2 = Norm.load(source, f"{name}.norm2", size, at, epsilon)
        self._up = Linear.load(source, f"{name}.feed_forward.w_1", (units, size), at)
        self._down = Linear.load(source, f"{name}.feed_forward.w_2", (size, units), at)

    def __call__(
        self,
        x: Tensor,
        rows: Rows,
        attend: Callable[[Tensor], Tensor] | None = None,
        remember: Callable[[Memory, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``x``: fp32, shape ``(rows, size)``; may be changed in place and returned.

        ``attend`` gives the heads' results, ``(rows, size)``, for queries (scaled already), keys and values
        side by side, ``(rows, 3 * size)``; by default each segment attends to itself. Then ``remember``
        applies the memory block to the values, ``(rows, size)``; by default within each segment.
        """
        qkv = self._qkv(self._norm1(x))
        query, key, value = qkv.chunk(3, dim=1)
        heads = attend(qkv) if attend else attend_segments(query, rows, key, value, rows, self._heads)
        memory = remember(self._memory, value) if remember else self._memory(value, rows)
        attention = self._out(heads)
        x = x.add_(attention).add_(memory) if self._keeps_input else attention.float().add_(memory)
        return x.add_(self._down(self._up(self._norm2(x), relu=True)))


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
        require(source, conf, "input_layer", "pe")
        require(source, conf, "selfattention_layer_type", "sanm")
        require(source, conf, "positionwise_layer_type", "linear")
        require_plain_blocks(source, conf)
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


def require(source: Parameters, conf: dict[str, Any], key: str, supported: object) -> None:
    """Raise :class:`ModelFilesError` unless ``conf`` lacks ``key`` or has the ``supported`` value there."""
    if conf.get(key, supported) != supported:
        problem = f"{key}: {conf[key]} in config.yaml is not supported, only {supported}"
        raise ModelFilesError(source.path.parent, problem, SAME_MODEL)


def require_plain_blocks(source: Parameters, conf: dict[str, Any]) -> None:
    """Raise :class:`ModelFilesError` if ``conf`` changes how the layers of a block are put together."""
    require(source, conf, "normalize_before", True)
    require(source, conf, "concat_after", False)
    require(source, conf, "lora_list", None)
