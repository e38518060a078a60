"""The FSMN network of FunASR's voice-activity detectors, for many recordings in one call.

The network is causal: a frame's output depends on nothing after it, and on what came before only through
the last ``history`` inputs of each block's memory filter (Zhang et al., "Deep-FSMN for Large Vocabulary
Continuous Speech Recognition", arXiv:1803.05030; FunASR's ``fsmn_vad_streaming/encoder.py``). So stretches
of several recordings are laid end to end, with no padding between them, and each brings its own history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError

Affine = tuple[torch.Tensor, torch.Tensor]
"""Weight of shape ``(out, in)`` and bias of shape ``(out,)``."""


@dataclass(frozen=True, slots=True)
class _Block:
    project: torch.Tensor
    taps: torch.Tensor
    expand: Affine


class Fsmn:
    """The encoder of ``files``, in fp32 on ``device``.

    ``feature_size`` is the width of an input frame and ``memory_shape`` the shape of one recording's
    memory: ``(blocks, history, projection)``.

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
        order, self._stride = int(config["lorder"]), int(config.get("lstride", 1))
        outer, outputs = int(config["output_affine_dim"]), int(config["output_dim"])
        self._softmax = bool(config.get("use_softmax", True))
        self.memory_shape = (int(config["fsmn_layers"]), (order - 1) * self._stride, projection)

        def weight(name: str, *shape: int) -> torch.Tensor:
            return files.parameters.take(f"encoder.{name}.weight", *shape).to(device)

        def affine(name: str, size_out: int, size_in: int) -> Affine:
            bias = files.parameters.take(f"encoder.{name}.linear.bias", size_out).to(device)
            return weight(f"{name}.linear", size_out, size_in), bias

        def block(index: int) -> _Block:
            taps = weight(f"fsmn.{index}.fsmn_block.conv_left", projection, 1, order, 1).squeeze(3).clone()
            # The memory filter's output is added to its input: the newest input has its own tap for that.
            taps[:, 0, -1] += 1
            project = weight(f"fsmn.{index}.linear.linear", projection, width)
            return _Block(project, taps, affine(f"fsmn.{index}.affine", width, projection))

        self._into = (affine("in_linear1", inner, self.feature_size), affine("in_linear2", width, inner))
        self._blocks = [block(index) for index in range(self.memory_shape[0])]
        self._out = (affine("out_linear1", outer, width), affine("out_linear2", outputs, outer))

    def __call__(
        self, features: torch.Tensor, lengths: Sequence[int], memories: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the next frames of several recordings.

        Args:
            features: shape ``(sum(lengths), feature_size)``, the recordings' frames end to end.
            lengths: frames of each recording; may be 0.
            memories: shape ``(recordings, *memory_shape)``: zeros at the begin of a recording, later what
                the call before returned.

        Returns:
            Posteriors of shape ``(sum(lengths), outputs)``, and the memories for the next call.
        """
        history = self.memory_shape[1]
        hidden = features
        for weight, bias in self._into:
            hidden = F.linear(hidden, weight, bias)
        hidden = hidden.relu_()
        kept: list[torch.Tensor] = []
        for index, block in enumerate(self._blocks):
            pieces = F.linear(hidden, block.project).split(list(lengths))
            remembered = [
                torch.cat(pair) for pair in zip(memories[:, index].unbind(), pieces, strict=True)
            ]
            kept.append(torch.stack([piece[len(piece) - history :] for piece in remembered]))
            filtered = self._filter(remembered, block.taps)
            hidden = F.linear(filtered, *block.expand).relu_()
        for weight, bias in self._out:
            hidden = F.linear(hidden, weight, bias)
        return hidden.softmax(dim=1) if self._softmax else hidden, torch.stack(kept, dim=1)
