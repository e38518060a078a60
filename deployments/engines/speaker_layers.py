"""Layers of speaker networks, for inference: normalizations are part of what stands beside them.

Images lie as ``(windows, channels, frames, bands)`` in channels-last memory, which is what CPUs convolve
fastest, and so that one frame of all bands and channels is one row of a matrix without any copy.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, Parameters
from deployments.engines.precision import has_fast_bf16
from deployments.engines.sanm import Linear, Placement, pack

_EPSILON = 1e-5
"""PyTorch's own in batch normalization, which FunASR does not change."""


class Affine(NamedTuple):
    """What a batch normalization amounts to at inference, ``scale * x + shift``: two fp32 ``(channels,)``."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def load(cls, source: Parameters, name: str, size: int, *, learnt: bool = True) -> "Affine":
        """Read the batch normalization ``name``; without ``learnt`` it has no weight and bias."""
        mean, variance = (source.take(f"{name}.running_{part}", size) for part in ("mean", "var"))
        scale = (variance + _EPSILON).rsqrt()
        if not learnt:
            return cls(scale, -mean * scale)
        scale = scale * source.take(f"{name}.weight", size)
        return cls(scale, source.take(f"{name}.bias", size) - mean * scale)


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution over frames and bands with the batch normalization that follows it."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: int
    fused: bool
    """Whether the addition and the ReLU that follow run inside of the convolution (oneDNN)."""

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor,
        at: Placement,
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
    ) -> "Conv":
        """``weight``: fp32 ``(out, in, frames, bands)``. Zeros around an image keep its size, if not the
        ``stride``."""
        placed = weight.to(at.device, at.dtype).contiguous(memory_format=torch.channels_last)
        padding = (weight.shape[2] // 2 * dilation, weight.shape[3] // 2 * dilation)
        fused = at.device.type == "cpu" and at.dtype == torch.bfloat16 and has_fast_bf16(at.device)
        return cls(placed, bias.to(at.device, at.dtype), stride, padding, dilation, fused)

    @classmethod
    def load(
        cls,
        source: Parameters,
        name: str,
        norm: str | None,
        shape: tuple[int, int, int, int],
        at: Placement,
        stride: tuple[int, int] = (1, 1),
    ) -> "Conv":
        """Read a ``Conv2d`` of FunASR's, which has bands before frames (also in ``shape``), and its ``norm``.

        A bias is read where there is one.
        """
        bias = source.take(f"{name}.bias", shape[0]) if f"{name}.bias" in source else torch.zeros(shape[0])
        scale, shift = Affine.load(source, norm, shape[0]) if norm else (torch.ones(shape[0]), 0)
        weight = source.take(f"{name}.weight", *shape) * scale[:, None, None, None]
        return cls.of(weight.transpose(2, 3), scale * bias + shift, at, stride)

    def __call__(self, x: Tensor, *, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """``add``: what is added before the ReLU; it may be changed in place and returned."""
        if not self.fused:
            return self._plain(x, add, relu)
        where = (self.padding, self.stride, (self.dilation, self.dilation), 1)
        activation = "relu" if relu else "none"
        if add is None:
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *where, activation, [], ""
            )
            return out
        after = "relu" if relu else None
        total: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            add, x, self.weight, self.bias, *where, "add", 1.0, after, [], None
        )
        return total

    def _plain(self, x: Tensor, add: Tensor | None, relu: bool) -> Tensor:
        out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        if add is not None:
            out = out.add_(add)
        return out.relu_() if relu else out


@dataclass(frozen=True, slots=True)
class NormReluLinear:
    """Batch normalization, ReLU and an affine map of rows, as a maximum and a product.

    ``w · relu(s·x + b)`` is ``(w·s) · (max(x, -b/s) + b/s)`` where ``s > 0``, and the same with ``min`` where
    ``s < 0``: all but the maximum is part of the product.
    """

    lowest: Tensor | None
    highest: Tensor | None
    linear: Linear

    @classmethod
    def of(cls, norm: Affine, weight: Tensor, bias: Tensor | None, at: Placement) -> "NormReluLinear":
        """``weight``: fp32 ``(out, in)``."""
        scale, shift = norm
        flat = scale == 0
        scaled = (weight * scale).to(at.dtype)
        edge = torch.where(flat, 0, -shift / scale).to(at.dtype)
        # With the rounded values, so that what the ReLU cuts off adds exactly nothing.
        offset = weight @ torch.where(flat, shift.relu(), 0) - scaled.float() @ edge.float()
        offset = offset if bias is None else offset + bias
        lowest = torch.where(scale > 0, edge, -torch.inf).to(at.device)
        highest = torch.where(scale < 0, edge, torch.inf).to(at.device)
        return cls(
            None if torch.isneginf(lowest).all() else lowest,
            None if torch.isposinf(highest).all() else highest,
            Linear(pack(scaled.to(at.device)), offset.to(at.device, at.dtype)),
        )

    def __call__(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """``x``: ``(rows, in)`` in the dtype of the weights."""
        # One after the other, since a clamp takes 2.5 times as long as either, and few models need both.
        if self.lowest is not None:
            x = torch.maximum(x, self.lowest)
        if self.highest is not None:
            x = torch.minimum(x, self.highest)
        return self.linear(x, relu=relu)


def require_option(files: ModelFiles, key: str, supported: object) -> None:
    """Raise :class:`ModelFilesError` if ``model_conf`` has another value of ``key`` than ``supported``."""
    value = files.section("model_conf").get(key, supported)
    if value != supported:
        problem = f"model_conf.{key}: {value} is not supported, only {supported}"
        raise ModelFilesError(files.directory / "config.yaml", problem, SAME_MODEL)


class SpeakerNetwork(Protocol):
    """What an engine needs of a network: features of equally long windows in, voices out.

    Attributes:
        bands: mel bands that it hears.
        dimensions: numbers of a voice.
        least_frames: fewer frames give no voice, because their deviation over time is none.
    """

    bands: int
    dimensions: int
    least_frames: int

    def forward(self, features: Tensor) -> Tensor:
        """``(windows, frames, bands)`` to ``(windows, dimensions)``, fp32, of any length."""
        ...
