"""Voice-activity detection by FunASR's FSMN-VAD, block by block, for many recordings in one call."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deployments.engines.base import SAMPLE_RATE, SpeechSpan, VadBlock, VadResult
from deployments.engines.fsmn import Fsmn
from deployments.engines.model_files import SAME_MODEL, ModelFilesError, read_model_files
from deployments.engines.vad_endpoint import EndpointRules, FrameRules
from deployments.engines.vad_frontend import VadFrontend
from deployments.engines.vad_recording import Floats, Layout, Recording

_PASS_SAMPLES = 20 * SAMPLE_RATE
"""About how much audio, of all recordings together, one pass takes: its matrices should stay in cache."""
_SHORTEST_STRIDE = SAMPLE_RATE // 2


@dataclass(slots=True)
class _Track:
    """One block of the call: its recording, and the spans found so far, in frames."""

    block: VadBlock
    recording: Recording
    spans: list[tuple[int, int]] = field(default_factory=list)


class FsmnVadEngine:
    """A :class:`~deployments.engines.base.VadEngine` over the directory of a ``FsmnVADStreaming``.

    The spans of a recording are those of FunASR's own ``generate(max_end_silence_time=...)`` over the whole
    recording (which switches its dynamic silence schedule off), however it is cut into blocks and whatever
    else is in a call. They are multiples of the frame shift; one that is open at the end of the recording
    ends with the last whole frame, less than 25 ms before the last sample. Where FunASR fails, because a
    posterior is exactly 0 or 1, the engine does not.

    ``threads`` is how many torch uses in this process from now on.

    Raises:
        ModelFilesError: the directory does not hold such a model.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        self._threads = threads
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        if files.config["model"] != "FsmnVADStreaming" or files.cmvn is None:
            raise ModelFilesError(files.directory, "is not an FsmnVADStreaming with a frontend", SAME_MODEL)
        self._device = torch.device(device)
        self._network = Fsmn(files, self._device)
        config = files.section("model_conf")
        self._frame_rules = FrameRules.from_config(config)
        self._silence = [int(output) for output in config.get("sil_pdf_ids", [0])]
        try:
            self._endpoint_rules = EndpointRules.from_config(config)
            self._frontend = VadFrontend(files, with_levels=self._frame_rules.needs_levels)
        except ValueError as error:
            raise ModelFilesError(files.directory / "config.yaml", str(error), SAME_MODEL) from error
        self._layout = Layout(self._frontend.rows, self._network.memory_shape)

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

    def _score(self, ready: Sequence[tuple[_Track, Floats, Floats]]) -> list[npt.NDArray[np.float64]]:
        """The posterior of silence of each frame, for each recording; its memory moves on."""
        if not ready:
            return []
        recordings = [track.recording for track, _, _ in ready]
        lengths = [features.shape[1] for _, features, _ in ready]
        features = torch.from_numpy(np.concatenate([features for _, features, _ in ready], axis=1))
        memories = torch.from_numpy(np.stack([recording.memory for recording in recordings]))
        scores, kept = self._network(features.to(self._device), lengths, memories.to(self._device))
        for recording, memory in zip(recordings, kept.cpu().numpy(), strict=True):
            recording.memory = memory
        silence = scores[self._silence].double().sum(dim=0).cpu().numpy()
        return np.split(silence, np.cumsum(lengths)[:-1])

    def _endpoint(self, track: _Track, silence: npt.NDArray[np.float64], levels: Floats) -> None:
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
