"""What every FSMN-VAD engine does alike: many recordings, block by block, from samples to spans.

The engines differ in the network between the features and the posteriors of silence only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from deployments.engines.base import SAMPLE_RATE, SpeechSpan, VadBlock, VadResult
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError
from deployments.engines.vad_endpoint import EndpointRules, FrameRules
from deployments.engines.vad_frontend import VadFrontend
from deployments.engines.vad_recording import Floats, Layout, Recording

_PASS_SAMPLES = 20 * SAMPLE_RATE
"""About how much audio, of all recordings together, one pass takes: its matrices should stay in cache."""
_SHORTEST_STRIDE = SAMPLE_RATE // 2

Posteriors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The next frames of one recording.

    ``features`` has shape ``(features, frames)`` with at least one frame, not normalized; ``memory`` is what
    the network left after the ``seen`` frames before, zeros at the begin.
    """

    features: Floats
    memory: Floats
    seen: int


class SilenceNetwork(Protocol):
    """``memory_shape`` is the shape of what must be kept of one recording between two calls."""

    @property
    def memory_shape(self) -> tuple[int, int, int]: ...

    def score(self, stretches: Sequence[Stretch]) -> list[tuple[Posteriors, Floats]]:
        """For each stretch the posterior of silence of each frame, ``(frames,)``, and the next memory."""
        ...


@dataclass(slots=True)
class _Track:
    """One block of the call: its recording, and the spans found so far, in frames."""

    block: VadBlock
    recording: Recording
    spans: list[tuple[int, int]] = field(default_factory=list)


class FsmnDetector:
    """A :class:`~deployments.engines.base.VadEngine` over any :class:`SilenceNetwork`.

    ``threads`` is how many torch, which computes the features, uses in this process from now on.

    Raises:
        ModelFilesError: ``files`` ask for a frontend or rules that are not implemented.
    """

    def __init__(self, files: ModelFiles, network: SilenceNetwork, *, threads: int) -> None:
        self._threads = threads
        self._network = network
        config = files.section("model_conf")
        self._frame_rules = FrameRules.from_config(config)
        try:
            self._endpoint_rules = EndpointRules.from_config(config)
            self._frontend = VadFrontend(files, with_levels=self._frame_rules.needs_levels)
        except ValueError as error:
            raise ModelFilesError(files.directory / "config.yaml", str(error), SAME_MODEL) from error
        self._layout = Layout(self._frontend.rows, network.memory_shape)

    @torch.inference_mode()
    def detect(self, blocks: Sequence[VadBlock]) -> list[VadResult]:
        """Take the next block of each recording; see :class:`~deployments.engines.base.VadEngine`.

        A block may have any length, also none. Long ones are worked off in short strides, so that memory
        does not grow with them.

        Raises:
            ValueError: a state was not written by an engine with the same model.
        """
        # OpenMP keeps the number for each calling thread, and torch.get_num_threads() does not know it.
        torch.set_num_threads(self._threads)
        tracks = [
            _Track(block, self._layout.begin() if block.state is None else self._layout.read(block.state))
            for block in blocks
        ]
        stride = max(_SHORTEST_STRIDE, _PASS_SAMPLES // max(1, len(tracks)))
        passes = [max(1, math.ceil(len(block.samples) / stride)) for block in blocks]
        for index in range(max(passes, default=0)):
            running = [track for track, count in zip(tracks, passes, strict=True) if index < count]
            last = [index == count - 1 for count in passes if index < count]
            self._advance(running, slice(index * stride, (index + 1) * stride), last)
        return [self._result(track) for track in tracks]

    def _advance(self, tracks: Sequence[_Track], part: slice, last: Sequence[bool]) -> None:
        """Take the samples ``part`` of each block; ``last`` says for which blocks these are the last."""
        finals = [track.block.final and is_last for track, is_last in zip(tracks, last, strict=True)]
        ready: list[tuple[_Track, Floats, Floats]] = []
        for track, final in zip(tracks, finals, strict=True):
            features, levels = self._frontend.take(track.recording, track.block.samples[part], final=final)
            if features.shape[1]:
                ready.append((track, features, levels))
        for (track, _, levels), silence in zip(ready, self._score(ready), strict=True):
            self._endpoint(track, silence, levels)
        for track, final in zip(tracks, finals, strict=True):
            if final:
                track.spans += track.recording.endpointer.close()

    def _score(self, ready: Sequence[tuple[_Track, Floats, Floats]]) -> list[Posteriors]:
        """The posterior of silence of each frame, for each recording; its memory moves on."""
        if not ready:
            return []
        recordings = [track.recording for track, _, _ in ready]
        stretches = [
            Stretch(features, recording.memory, recording.endpointer.frame)
            for recording, (_, features, _) in zip(recordings, ready, strict=True)
        ]
        scored = self._network.score(stretches)
        for recording, (_, memory) in zip(recordings, scored, strict=True):
            recording.memory = memory
        return [silence for silence, _ in scored]

    def _endpoint(self, track: _Track, silence: Posteriors, levels: Floats) -> None:
        """Decide each frame, and collect the spans that end."""
        recording, options = track.recording, track.block.options
        decisions = self._frame_rules.decide(silence, options.speech_noise_threshold)
        if self._frame_rules.needs_levels:
            decisions, recording.noise_db = self._frame_rules.gate(
                decisions, levels.tolist(), recording.noise_db
            )
        track.spans += recording.endpointer.advance(
            decisions,
            self._endpoint_rules,
            max_end_silence_ms=options.max_end_silence_ms,
            max_span_ms=options.max_span_ms,
        )

    def _result(self, track: _Track) -> VadResult:
        frame_ms = self._endpoint_rules.frame_ms
        spans = tuple(SpeechSpan(begin * frame_ms, end * frame_ms) for begin, end in track.spans)
        begin = track.recording.endpointer.begin
        state = None if track.block.final else self._layout.write(track.recording)
        return VadResult(spans, begin * frame_ms if begin >= 0 else None, state)
