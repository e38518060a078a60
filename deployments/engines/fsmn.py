"""The FSMN network of FunASR's voice-activity detectors, for many recordings in one call.

The network is causal: a frame's output depends on nothing after it, and on what came before only through
the last inputs of each block's memory filter (Zhang et al., "Deep-FSMN for Large Vocabulary Continuous
Speech Recognition", arXiv:1803.05030; FunASR's ``fsmn_vad_streaming/encoder.py``). So stretches of several
recordings are laid end to end, with no padding between them, and each brings its own history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError


@dataclass(frozen=True, slots=True)
class _Affine:
    """``weight`` has shape (out, in), ``bias`` (out, 1): frames are columns here."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, self.weight, frames)


@dataclass(frozen=True, slots=True)
class _Block:
    """``project`` has shape (projection, width), ``taps`` (projection, 1, order), the oldest tap first."""

    project: torch.Tensor
    taps: torch.Tensor
    expand: _Affine


class Fsmn:
    """The encoder that ``files`` hold, in fp32 on ``device``; it takes features that are not normalized yet.

    ``feature_size`` is the size of an input frame, and ``memory_shape`` the shape of what must be kept of
    one recording between two calls: ``(blocks, projection, history)``.

    Raises:
        ModelFilesError: the configuration is not that of a causal FSMN, or a parameter is missing or has
            another shape than it says.
    """

    def __init__(self, files: ModelFiles, device: torch.device) -> None:
        config = files.section("encoder_conf")
        if files.config.get("encoder") != "FSMN" or int(config.get("rorder", 0)) != 0:
            path = files.directory / "config.yaml"
            raise ModelFilesError(path, "does not describe an FSMN encoder with rorder 0", SAME_MODEL)
        self.feature_size, inner = int(config["input_dim"]), int(config["input_affine_dim"])
        width, projection = int(config["linear_dim"]), int(config["proj_dim"])
        order, self._dilation = int(config["lorder"]), int(config.get("lstride", 1))
        outer, self.outputs = int(config["output_affine_dim"]), int(config["output_dim"])
        self._softmax = bool(config.get("use_softmax", True))
        self.memory_shape = (int(config["fsmn_layers"]), projection, (order - 1) * self._dilation)

        def parameter(name: str, *shape: int) -> torch.Tensor:
            return files.parameters.take(f"encoder.{name}", *shape).to(device)

        def affine(name: str, size_out: int, size_in: int) -> _Affine:
            weight = parameter(f"{name}.linear.weight", size_out, size_in)
            return _Affine(weight, parameter(f"{name}.linear.bias", size_out)[:, None])

        def block(name: str) -> _Block:
            taps = parameter(f"{name}.fsmn_block.conv_left.weight", projection, 1, order, 1)[..., 0].clone()
            # The filter's output is added to its newest input, which is the same as one more in its tap.
            taps[:, 0, -1] += 1
            project = parameter(f"{name}.linear.linear.weight", projection, width)
            return _Block(project, taps, affine(f"{name}.affine", width, projection))

        first = _after_cmvn(affine("in_linear1", inner, self.feature_size), files)
        self._into = (first, affine("in_linear2", width, inner))
        self._blocks = [block(f"fsmn.{index}") for index in range(self.memory_shape[0])]
        self._out = (affine("out_linear1", outer, width), affine("out_linear2", self.outputs, outer))

    def __call__(
        self, features: torch.Tensor, lengths: Sequence[int], memories: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the next frames of several recordings.

        Args:
            features: shape ``(feature_size, sum(lengths))``: frames are columns, recordings end to end.
            lengths: frames of each recording, at least 1.
            memories: shape ``(recordings, *memory_shape)``: zeros at the begin of a recording, later what
                the call before returned.

        Returns:
            Posteriors of shape ``(outputs, sum(lengths))``, and the memories for the next call.
        """
        past = self.memory_shape[2]
        # Column numbers in the layout `memory, frames, memory, frames, ...` that the memory filters run over.
        begins = [past * index + sum(lengths[:index]) for index in range(len(lengths))]
        outputs = torch.cat([torch.arange(b, b + n) for b, n in zip(begins, lengths, strict=True)])
        newest = torch.cat([torch.arange(b + n, b + n + past) for b, n in zip(begins, lengths, strict=True)])
        outputs, newest = outputs.to(features.device), newest.to(features.device)
        hidden = features
        for layer in self._into:
            hidden = layer(hidden)
        hidden = hidden.relu_()
        kept = torch.empty_like(memories)
        for index, block in enumerate(self._blocks):
            inputs = (block.project @ hidden).split(list(lengths), dim=1)
            pairs = zip(memories[:, index].unbind(), inputs, strict=True)
            joined = torch.cat(list(chain.from_iterable(pairs)), dim=1)
            kept[:, index] = joined[:, newest].unflatten(1, (len(lengths), past)).transpose(0, 1)
            hidden = F.conv1d(joined, block.taps, groups=len(joined), dilation=self._dilation)
            hidden = hidden if len(lengths) == 1 else hidden.index_select(1, outputs)
            hidden = block.expand(hidden).relu_()
        for layer in self._out:
            hidden = layer(hidden)
        return hidden.softmax(dim=0) if self._softmax else hidden, kept


def _after_cmvn(layer: _Affine, files: ModelFiles) -> _Affine:
    """``layer`` with the normalization of its input, ``(x + shift) * scale``, worked into it."""
    size = layer.weight.shape[1]
    if files.cmvn is None or files.cmvn.shape != (2, size):
        raise ModelFilesError(files.directory, f"has no normalization of {size} features", SAME_MODEL)
    # In fp64, so that what comes out is rounded but once.
    shift, scale = torch.from_numpy(files.cmvn).to(layer.weight.device).double()
    weight = layer.weight.double() * scale
    bias = layer.bias.double() + weight @ shift[:, None]
    return _Affine(weight.float(), bias.float())
