"""The CAM++ network for inference: a convolutional head, then densely connected layers over time.

The computation is that of FunASR's ``CAMPPlus`` (Wang et al., "CAM++: A Fast and Efficient Network for
Speaker Verification Using Context-Aware Masking", arXiv:2303.00332) on the same parameters.
"""

import torch
from torch import Tensor

from deployments.engines.model_files import ModelFiles, Parameters
from deployments.engines.sanm import Placement
from deployments.engines.speaker_layers import Affine, Conv, NormReluLinear, require_option

_HEAD_CHANNELS = 32
_HEAD_STRIDE = 8
_BLOCKS = ((12, 1), (24, 2), (16, 2))
"""Layers and dilation of each dense block, with kernels of 3."""
_CONTEXT_FRAMES = 100
_HEAD_TOGETHER = 4
"""Windows of 1.5 s whose head is computed at once: its images then stay in a core's cache."""
_HEAD_FRAMES = 150


class CampplusNetwork:
    """See :class:`deployments.engines.speaker_layers.SpeakerNetwork`."""

    def __init__(self, files: ModelFiles, at: Placement) -> None:
        """Raises:
        ModelFilesError: parameters are missing or mis-shaped, or a variant is asked for that is not
            implemented here.
        """
        conf, source = files.section("model_conf"), files.parameters
        require_option(files, "config_str", "batchnorm-relu")
        require_option(files, "output_level", "segment")
        self.bands, self.dimensions = int(conf.get("feat_dim", 80)), int(conf.get("embedding_size", 192))
        self.least_frames = 3
        self._at = at
        channels, growth = int(conf.get("init_channels", 128)), int(conf.get("growth_rate", 32))
        self._head = _Head(source, at)
        self._begin = _tdnn(source, self.bands // _HEAD_STRIDE, channels, at)
        self._blocks = []
        for number, (layers, dilation) in enumerate(_BLOCKS, 1):
            sizes = (channels, growth, int(conf.get("bn_size", 4)) * growth)
            self._blocks.append(_DenseBlock(source, number, layers, dilation, sizes, at))
            channels = (channels + layers * growth) // 2
        self._end = Affine.load(source, "xvector.out_nonlinear.batchnorm", channels)
        scale, self._shift = Affine.load(
            source, "xvector.dense.nonlinear.batchnorm", self.dimensions, learnt=False
        )
        weight = source.take("xvector.dense.linear.weight", self.dimensions, 2 * channels, 1)[:, :, 0]
        self._weight = weight * scale[:, None]
        self._end, self._weight, self._shift = (
            Affine(*(part.to(at.device) for part in self._end)),
            self._weight.to(at.device),
            self._shift.to(at.device),
        )

    def forward(self, features: Tensor) -> Tensor:
        """``(windows, frames, bands)`` to ``(windows, dimensions)``, fp32; ``least_frames`` or more."""
        together = max(1, _HEAD_TOGETHER * _HEAD_FRAMES // features.shape[1])
        x = torch.cat([self._tdnn_of(part) for part in features.split(together)])
        for block in self._blocks:
            x = block(x)
        x = torch.addcmul(self._end.shift, x, self._end.scale).relu_()
        spread, mean = torch.std_mean(x, dim=1)
        return torch.addmm(self._shift, torch.cat([mean, spread], dim=1), self._weight.T)

    def _tdnn_of(self, features: Tensor) -> Tensor:
        image = self._head(features.to(self._at.dtype)[:, None])
        rows = image.permute(0, 2, 3, 1).flatten(2)
        return _over_time(self._begin, rows, relu=True)


class _Head:
    """Ten convolutions, eight of them in residual blocks; an eighth of the bands comes out."""

    def __init__(self, source: Parameters, at: Placement) -> None:
        size = _HEAD_CHANNELS

        def conv(name: str, inputs: int = size, kernel: int = 3, halve: bool = False) -> Conv:
            norm = "shortcut.1".join(name.rsplit("shortcut.0", 1)) if kernel == 1 else _norm_beside(name)
            shape = (size, inputs, kernel, kernel)
            return Conv.load(source, f"head.{name}", f"head.{norm}", shape, at, (1, 2 if halve else 1))

        self._first, self._last = conv("conv1", inputs=1), conv("conv2", halve=True)
        self._blocks: list[tuple[Conv, Conv, Conv | None]] = []
        for name in ("layer1.0", "layer1.1", "layer2.0", "layer2.1"):
            halve = name.endswith("0")
            shortcut = conv(f"{name}.shortcut.0", kernel=1, halve=True) if halve else None
            self._blocks.append((conv(f"{name}.conv1", halve=halve), conv(f"{name}.conv2"), shortcut))

    def __call__(self, image: Tensor) -> Tensor:
        """``(windows, 1, frames, bands)`` to ``(windows, channels, frames, bands / 8)``."""
        x = self._first(image.contiguous(memory_format=torch.channels_last), relu=True)
        for first, second, shortcut in self._blocks:
            x = second(first(x, relu=True), add=x if shortcut is None else shortcut(x), relu=True)
        return self._last(x, relu=True)


def _norm_beside(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f"{stem}.{last.replace('conv', 'bn')}".lstrip(".")


def _tdnn(source: Parameters, bands: int, size: int, at: Placement) -> Conv:
    scale, shift = Affine.load(source, "xvector.tdnn.nonlinear.batchnorm", size)
    weight = source.take("xvector.tdnn.linear.weight", size, _HEAD_CHANNELS * bands, 5) * scale[:, None, None]
    # FunASR's rows have all bands of a channel side by side, these here all channels of a band.
    weight = weight.view(size, _HEAD_CHANNELS, bands, 5).transpose(1, 2).reshape(size, -1, 1, 5)
    return Conv.of(weight, shift, at, (1, 2))


def _over_time(conv: Conv, rows: Tensor, *, relu: bool = False) -> Tensor:
    """``(windows, frames, channels)`` as an image of one row: convolved up to twice as fast as one column."""
    return conv(rows[:, None].permute(0, 3, 1, 2), relu=relu)[:, :, 0].transpose(1, 2)


class _DenseBlock:
    """Layers each of which hears what went into the block and what all layers before it said."""

    def __init__(
        self,
        source: Parameters,
        number: int,
        layers: int,
        dilation: int,
        sizes: tuple[int, int, int],
        at: Placement,
    ) -> None:
        """``sizes``: channels that come in, that each layer adds, and inside of a layer."""
        channels, growth, _ = sizes
        self._growth = growth
        self._layers = [
            _DenseLayer(
                source,
                f"xvector.block{number}.tdnnd{index + 1}",
                dilation,
                channels + index * growth,
                sizes,
                at,
            )
            for index in range(layers)
        ]
        self._channels = channels + layers * growth
        name = f"xvector.transit{number}"
        norm = Affine.load(source, f"{name}.nonlinear.batchnorm", self._channels)
        weight = source.take(f"{name}.linear.weight", self._channels // 2, self._channels, 1)[:, :, 0]
        self._transit = NormReluLinear.of(norm, weight, None, at)

    def __call__(self, x: Tensor) -> Tensor:
        """``(windows, frames, channels)`` to half of the channels that there are at the end."""
        windows, frames, channels = x.shape
        everything = x.new_empty(windows, frames, self._channels)
        everything[..., :channels] = x
        for layer in self._layers:
            layer(everything, channels)
            channels += self._growth
        return self._transit(everything.flatten(0, 1)).view(windows, frames, -1)


class _DenseLayer:
    """One layer: a bottleneck, then a convolution over time, masked by what the context says."""

    def __init__(
        self,
        source: Parameters,
        name: str,
        dilation: int,
        inputs: int,
        sizes: tuple[int, int, int],
        at: Placement,
    ) -> None:
        _, growth, inside = sizes
        scale, shift = Affine.load(source, f"{name}.nonlinear2.batchnorm", inside)
        weight = source.take(f"{name}.linear1.weight", inside, inputs, 1)[:, :, 0] * scale[:, None]
        norm = Affine.load(source, f"{name}.nonlinear1.batchnorm", inputs)
        self._bottleneck = NormReluLinear.of(norm, weight, shift, at)
        cam = f"{name}.cam_layer"
        taps = source.take(f"{cam}.linear_local.weight", growth, inside, 3)[:, :, None]
        self._local = Conv.of(taps, torch.zeros(growth), at, dilation=dilation)
        self._context = [
            (
                source.take(f"{cam}.linear{number}.weight", outputs, count, 1)[:, :, 0].T.to(at.device),
                source.take(f"{cam}.linear{number}.bias", outputs).to(at.device),
            )
            for number, outputs, count in ((1, inside // 2, inside), (2, growth, inside // 2))
        ]

    def __call__(self, everything: Tensor, channels: int) -> None:
        """Read the first ``channels`` of ``(windows, frames, all channels)`` and write those that follow."""
        windows, frames, _ = everything.shape
        hidden = self._bottleneck(everything[..., :channels].flatten(0, 1), relu=True)
        hidden = hidden.view(windows, frames, -1)
        local = _over_time(self._local, hidden)
        end = channels + local.shape[2]
        torch.mul(local, self._mask(hidden), out=everything[..., channels:end])

    def _mask(self, hidden: Tensor) -> Tensor:
        """What each stretch of :data:`_CONTEXT_FRAMES` frames, and the whole window, say of each channel."""
        windows, frames, _ = hidden.shape
        (first, offset), (second, bias) = self._context
        if frames <= _CONTEXT_FRAMES:  # the one stretch is the window, so its mean counts twice
            context = torch.addmm(offset, _sum(hidden)[:, 0], first, alpha=2 / frames)
            mask = torch.addmm(bias, context.relu_(), second).sigmoid_()
            return mask.to(hidden.dtype)[:, None]
        parts = [_sum(part) / part.shape[1] for part in hidden.split(_CONTEXT_FRAMES, dim=1)]
        context = (torch.cat(parts, dim=1) + _sum(hidden) / frames).flatten(0, 1)
        context = torch.addmm(offset, context, first).relu_()
        mask = torch.addmm(bias, context, second).sigmoid_().to(hidden.dtype).view(windows, len(parts), -1)
        return mask.repeat_interleave(_CONTEXT_FRAMES, dim=1)[:, :frames]


def _sum(x: Tensor) -> Tensor:
    """Over all frames of ``(windows, frames, channels)``, in fp32."""
    return x.sum(dim=1, keepdim=True, dtype=torch.float32)
