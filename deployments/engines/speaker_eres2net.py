"""The ERes2NetV2 network for inference: residual blocks whose channels are worked on in groups, then fused.

The computation is that of FunASR's ``ERes2NetV2`` (Chen et al., "ERes2NetV2: Boosting Short-Duration Speaker
Verification Performance with Computational Efficiency", arXiv:2406.02167) on the same parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.model_files import ModelFiles, Parameters
from deployments.engines.sanm import Placement
from deployments.engines.speaker_layers import Conv, require_option

_CAP = 20.0
"""Where the network's ReLU ends."""
_STAGES = (3, 4, 6, 3)
_FUSED_STAGES = (3, 4)
_SHRINK = 8
_SMALLEST_VARIANCE = 1e-8
_TOGETHER_FRAMES = 4 * 150
"""Frames whose images are in memory at once."""


class Eres2NetV2Network:
    """See :class:`deployments.engines.speaker_layers.SpeakerNetwork`."""

    def __init__(self, files: ModelFiles, at: Placement) -> None:
        """Raises:
        ModelFilesError: parameters are missing or mis-shaped, or a variant is asked for that is not
            implemented here.
        """
        conf, source = files.section("model_conf"), files.parameters
        require_option(files, "pooling_func", "TSTP")
        require_option(files, "two_emb_layer", False)
        self.bands, self.dimensions = int(conf.get("feat_dim", 80)), int(conf.get("embedding_size", 192))
        self.least_frames = _SHRINK + 1
        self._at = at
        # FunASR's own checkpoints have the network inside of another module, the published ones do not.
        prefix = "model." if "model.conv1.weight" in source else ""
        first, expansion = int(conf.get("m_channels", 64)), int(conf.get("expansion", 2))
        parts = int(conf.get("scale", 2)), int(conf.get("baseWidth", 26))
        self._begin = Conv.load(source, f"{prefix}conv1", f"{prefix}bn1", (first, 1, 3, 3), at)
        self._stages: list[list[_Block]] = []
        channels = first
        for stage, blocks in enumerate(conf.get("num_blocks", _STAGES), 1):
            planes = first * 2 ** (stage - 1)
            self._stages.append([])
            for index in range(int(blocks)):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"{prefix}layer{stage}.{index}"
                sizes = channels, planes, planes * expansion
                self._stages[-1].append(
                    _Block(source, name, sizes, parts, stride, stage in _FUSED_STAGES, at)
                )
                channels = planes * expansion
        shape = (channels, channels // 2, 3, 3)
        self._shrink = Conv.load(source, f"{prefix}layer3_ds", None, shape, at, (2, 2))
        self._fusion = _Fusion(source, f"{prefix}fuse34", channels, at)
        values = 2 * channels * (self.bands // _SHRINK)
        self._weight = source.take(f"{prefix}seg_1.weight", self.dimensions, values).to(at.device)
        self._bias = source.take(f"{prefix}seg_1.bias", self.dimensions).to(at.device)

    def forward(self, features: Tensor) -> Tensor:
        """``(windows, frames, bands)`` to ``(windows, dimensions)``, fp32; ``least_frames`` or more."""
        together = max(1, _TOGETHER_FRAMES // features.shape[1])
        return torch.cat([self._voices(part) for part in features.split(together)])

    def _voices(self, features: Tensor) -> Tensor:
        image = features.to(self._at.dtype)[:, None].contiguous(memory_format=torch.channels_last)
        x = before = self._begin(image, relu=True)
        for blocks in self._stages:
            before = x
            for block in blocks:
                x = block(x)
        x = self._fusion(x, self._shrink(before)).float()
        variance, mean = torch.var_mean(x, dim=2)
        statistics = torch.cat([mean.flatten(1), (variance + _SMALLEST_VARIANCE).sqrt().flatten(1)], dim=1)
        return torch.addmm(self._bias, statistics, self._weight.T)


class _Block:
    """A bottleneck whose channels go through convolutions in groups, each with what the group before gave."""

    def __init__(
        self,
        source: Parameters,
        name: str,
        sizes: tuple[int, int, int],
        parts: tuple[int, int],
        stride: int,
        fused: bool,
        at: Placement,
    ) -> None:
        """``sizes``: channels that come in, that the width goes by, and that go out."""
        inputs, planes, outputs = sizes
        groups, base = parts
        self._width = width = planes * base // 64

        def conv(number: str, norm: str, shape: tuple[int, int, int, int], stride: int = 1) -> Conv:
            return Conv.load(source, f"{name}.{number}", f"{name}.{norm}", shape, at, (stride, stride))

        self._narrow = conv("conv1", "bn1", (width * groups, inputs, 1, 1), stride)
        self._groups = [
            conv(f"convs.{number}", f"bns.{number}", (width, width, 3, 3)) for number in range(groups)
        ]
        self._widen = conv("conv3", "bn3", (outputs, width * groups, 1, 1))
        self._shortcut: Conv | None = None
        if stride != 1 or inputs != outputs:
            self._shortcut = conv("shortcut.0", "shortcut.1", (outputs, inputs, 1, 1), stride)
        self._fusions = [
            _Fusion(source, f"{name}.fuse_models.{number}", width, at) if fused else None
            for number in range(groups - 1)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        groups = self._narrow(x).clamp_(0, _CAP).split(self._width, dim=1)
        done = [self._groups[0](_laid_out(groups[0])).clamp_(0, _CAP)]
        for group, conv, fusion in zip(groups[1:], self._groups[1:], self._fusions, strict=True):
            mixed = done[-1] + group if fusion is None else fusion(done[-1], group)
            done.append(conv(_laid_out(mixed)).clamp_(0, _CAP))
        kept = x.clone(memory_format=torch.preserve_format) if self._shortcut is None else self._shortcut(x)
        return self._widen(_laid_out(torch.cat(done, dim=1)), add=kept).clamp_(0, _CAP)


class _Fusion:
    """Two images of one size, each weighted at each place by what both say there."""

    def __init__(self, source: Parameters, name: str, channels: int, at: Placement) -> None:
        inside = channels // 4
        shapes = (inside, 2 * channels, 1, 1), (channels, inside, 1, 1)
        self._first, self._second = (
            Conv.load(source, f"{name}.local_att.{place}", f"{name}.local_att.{place + 1}", shape, at)
            for place, shape in zip((0, 3), shapes, strict=True)
        )

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        both = _laid_out(torch.cat([x, y], dim=1))
        weight = self._second(F.silu(self._first(both), inplace=True)).tanh_()
        return x * (1 + weight) + y * (1 - weight)


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
