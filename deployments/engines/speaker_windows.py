"""What every speaker engine does alike: from windows of speech to features, and from those to voices."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deployments.engines.base import Embeddings, Pcm, Stretch
from deployments.engines.features import Frontend

_PASS_FRAMES = 40 * 150
"""Frames of 10 ms of one pass, so 40 windows of 1.5 s: more is not faster, and memory grows with it."""

_SHIFT, _LENGTH = 160, 400
"""Samples from frame to frame, and in one."""

_SMALLEST_NORM = 1e-12


class VoiceNetwork(Protocol):
    """Features of equally long windows in, voices out; see
    :class:`deployments.engines.speaker_layers.SpeakerNetwork`.
    """

    @property
    def bands(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def least_frames(self) -> int: ...

    def forward(self, features: Tensor) -> Tensor: ...


class SpeakerWindows:
    """A :class:`~deployments.engines.base.SpeakerEngine` over any :class:`VoiceNetwork`.

    A voice is what FunASR computes for a window by itself (80 log-mel bands without dither, their mean over
    the window subtracted), of length 1. Windows that are too short for the network are repeated until they
    are not.
    """

    def __init__(self, network: VoiceNetwork, *, threads: int, device: str = "cpu") -> None:
        """``threads``: how many PyTorch uses, which computes the features (a setting of the process).

        ``device`` is where the network wants its features.

        Raises:
            ValueError: ``threads`` is less than one.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._threads = threads
        self._device = torch.device(device)
        torch.set_num_threads(threads)
        self._network = network
        conf = {"window": "povey", "dither": 0.0, "upsacle_samples": False, "n_mels": network.bands}
        self._frontend = Frontend(conf, None)
        self._least_samples = _LENGTH + (network.least_frames - 1) * _SHIFT

    @property
    def dimensions(self) -> int:
        """Numbers of a voice."""
        return self._network.dimensions

    def embed(self, windows: Sequence[Pcm]) -> Embeddings:
        """One row for each window; see :class:`SpeakerEngine`.

        Raises:
            ValueError: a window holds no samples.
        """
        found = self.embed_stretches([Stretch(window, ((0, len(window)),)) for window in windows])
        return np.concatenate(found) if found else np.zeros((0, self.dimensions), np.float32)

    @torch.inference_mode()
    def embed_stretches(self, stretches: Sequence[Stretch]) -> list[Embeddings]:
        """The voices of each stretch; see :class:`SpeakerEngine`."""
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        features = [feature for stretch in stretches for feature in self._features(stretch)]
        voices = self._embed(features)
        ends = np.cumsum([len(stretch.windows) for stretch in stretches])
        return [part.copy() for part in np.split(voices, ends[:-1])] if stretches else []

    def _embed(self, features: Sequence[Tensor]) -> Embeddings:
        """One row for each window's features; those of one length go through the network together."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, feature in enumerate(features):
            by_length[len(feature)].append(index)
        voices = torch.empty(len(features), self.dimensions)
        for frames, indices in by_length.items():
            together = max(1, _PASS_FRAMES // frames)
            for first in range(0, len(indices), together):
                rows = indices[first : first + together]
                batch = torch.stack([features[index] for index in rows]).to(self._device)
                voices[rows] = self._network.forward(batch - batch.mean(dim=1, keepdim=True)).cpu()
        voices /= voices.norm(dim=1, keepdim=True).clamp_(min=_SMALLEST_NORM)
        return voices.numpy()

    def _features(self, stretch: Stretch) -> list[Tensor]:
        """The log-mel frames of each window, ``(frames, bands)``.

        Frames that windows share are computed once: a frame depends on nothing but its own samples.
        """
        runs = _runs(stretch, self._least_samples)
        found: list[Tensor] = [torch.empty(0)] * len(stretch.windows)
        for members in runs:
            begin = stretch.windows[members[0]][0]
            end = max(stretch.windows[member][1] for member in members)
            samples = stretch.samples[begin:end]
            if len(samples) < self._least_samples:
                samples = np.resize(samples, self._least_samples)
            frames = self._frontend(samples)
            for member in members:
                first, last = stretch.windows[member]
                count = self._frontend.frames(max(last - first, self._least_samples))
                offset = (first - begin) // _SHIFT
                found[member] = frames[offset : offset + count]
        return found


def _runs(stretch: Stretch, least: int) -> list[list[int]]:
    """Groups of windows that overlap or touch, and whose frames lie on the same grid, in order of begin."""
    for begin, end in stretch.windows:
        if not 0 <= begin < end <= len(stretch.samples):
            raise ValueError(f"window {begin} to {end} does not lie in {len(stretch.samples)} samples")
    order = sorted(
        range(len(stretch.windows)), key=lambda at: (stretch.windows[at][0] % _SHIFT, stretch.windows[at])
    )
    runs: list[list[int]] = []
    reached = -1
    for index in order:
        begin, end = stretch.windows[index]
        fits = bool(runs) and (begin - stretch.windows[runs[-1][0]][0]) % _SHIFT == 0
        if fits and begin <= reached and end - begin >= least:
            runs[-1].append(index)
            reached = max(reached, end)
        else:
            runs.append([index])
            reached = end if end - begin >= least else -1
    return runs
