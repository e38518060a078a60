"""Turns one speech-or-silence decision per frame into spans of speech, with a few bytes of memory.

The rules are those of FunASR's ``FsmnVADStreaming`` in its multi-utterance mode with a fixed end silence
(``funasr/models/fsmn_vad_streaming/model.py``), down to the frame:

* A sliding window counts the speech frames. It becomes voiced when they reach ``speech_on`` and silent
  again when they are down to ``speech_off``.
* A span opens when the window becomes voiced. It begins one window and ``lookback`` frames before that, but
  never inside the span before it.
* A span ends when its window has been silent for long enough, ``lookahead`` frames into that silence; or at
  once when the span is longer than it may be. The window then starts from nothing.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

_CLOSED = -1
_QUIETEST_DB = -60.0
"""The level of digital silence, which FunASR takes as an energy of 1e-6."""
_LOUDEST_DB = 27.0
"""Above the level of any frame of up to 500 samples, each at most 1."""
NO_NOISE_DB = -100.0
"""FunASR's noise level of a recording in which there has been no noise yet."""


@dataclass(frozen=True, slots=True)
class FrameRules:
    """When a frame is speech: by the network's posterior of silence and, if configured, by its level."""

    margin: float
    noise_exponent: float
    min_level_db: float
    min_snr_db: float
    noise_frames: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read FunASR's ``model_conf``; the defaults are FunASR's."""
        return cls(
            margin=float(config.get("speech_noise_thres", 0.6)),
            noise_exponent=float(config.get("speech_2_noise_ratio", 1.0)),
            min_level_db=float(config.get("decibel_thres", -100.0)),
            min_snr_db=float(config.get("snr_thres", -100.0)),
            noise_frames=int(config.get("noise_frame_num_used_for_snr", 100)),
        )

    @property
    def needs_levels(self) -> bool:
        """Whether any 16-bit audio could be refused for its level. With FunASR's defaults none can."""
        return self.min_level_db > _QUIETEST_DB or self.min_snr_db > _QUIETEST_DB - _LOUDEST_DB

    def decide(self, silence: npt.NDArray[np.float64], margin: float | None = None) -> list[int]:
        """1 for speech by the posterior of silence alone, of shape ``(frames,)``.

        ``margin`` takes the place of the configured one.

        FunASR goes through the logarithms of both posteriors, and fails where one of them is 0.
        """
        margin = self.margin if margin is None else margin
        speech = 1.0 - silence >= silence**self.noise_exponent + margin
        decisions: list[int] = speech.astype(np.uint8).tolist()
        return decisions

    def gate(
        self, decisions: Iterable[int], levels_db: Iterable[float], noise_db: float
    ) -> tuple[list[int], float]:
        """Refuse speech that is too quiet, or too little above the noise; also the noise level after it."""
        gated: list[int] = []
        for speech, level in zip(decisions, levels_db, strict=True):
            if speech or level < self.min_level_db:
                gated.append(int(level >= self.min_level_db and level - noise_db >= self.min_snr_db))
                continue
            gated.append(0)
            older = noise_db * (self.noise_frames - 1)
            noise_db = level if noise_db < -99.9 else (level + older) / self.noise_frames
        return gated, noise_db


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """What a model's configuration says about endpoints: in frames, where the name does not say ms."""

    frame_ms: int
    window: int
    speech_on: int
    speech_off: int
    speech_off_ms: int
    lookback: int
    lookahead: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read FunASR's ``model_conf``; the defaults are FunASR's.

        Raises:
            ValueError: the configuration asks for FunASR's single-utterance mode, or for a window that
                FunASR's own detector cannot work with.
        """
        if int(config.get("detect_mode", 1)) != 1:
            raise ValueError("model_conf.detect_mode must be 1: several utterances in one recording")
        frame_ms = int(config.get("frame_in_ms", 10))
        speech_off_ms = int(config.get("speech_to_sil_time_thres", 150))
        extend = bool(config.get("do_extend", 1))
        rules = cls(
            frame_ms=frame_ms,
            window=int(config.get("window_size_ms", 200)) // frame_ms,
            speech_on=int(config.get("sil_to_speech_time_thres", 150)) // frame_ms,
            speech_off=speech_off_ms // frame_ms,
            speech_off_ms=speech_off_ms,
            lookback=int(config.get("lookback_time_start_point", 200)) // frame_ms if extend else 0,
            lookahead=int(config.get("lookahead_time_end_point", 100)) // frame_ms if extend else _CLOSED,
        )
        if not 2 <= rules.speech_on <= rules.window <= 64:
            raise ValueError(
                "model_conf.window_size_ms must be 2 to 64 frames and sil_to_speech_time_thres from 2 frames"
                f" to one window, not {rules.window} and {rules.speech_on} frames"
            )
        return rules


@dataclass(slots=True)
class Endpointer:
    """Where one recording stands. Frame numbers count from the begin of the recording.

    ``frame`` is the next frame; ``begin`` the first frame of the open span, or -1; ``floor`` the first frame
    at which a later span may begin; ``silence`` how many frames the window has been silent within a span;
    ``voiced`` the window's state, ``count`` the speech frames in it, and ``history`` its decisions, the
    newest in bit 0.
    """

    frame: int = 0
    begin: int = _CLOSED
    floor: int = 0
    silence: int = 0
    voiced: bool = False
    count: int = 0
    history: int = 0

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct("<4q?qQ")
    SIZE: ClassVar[int] = _LAYOUT.size

    def to_bytes(self) -> bytes:
        """The state in ``SIZE`` bytes."""
        position = (self.frame, self.begin, self.floor, self.silence)
        return self._LAYOUT.pack(*position, self.voiced, self.count, self.history)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` wrote. Raises ``struct.error`` if ``data`` has another size."""
        return cls(*cls._LAYOUT.unpack(data))

    def advance(
        self, decisions: Iterable[int], rules: EndpointRules, *, max_end_silence_ms: int, max_span_ms: int
    ) -> list[tuple[int, int]]:
        """Take one decision per frame (1 is speech, 0 is not); the spans that ended, as frames [begin, end).

        A ``max_end_silence_ms`` below the model's ``speech_to_sil_time_thres`` counts as equal to it: the
        window notices no shorter silence.
        """
        frame_ms, oldest, mask = rules.frame_ms, rules.window - 1, (1 << rules.window) - 1
        end_silence_ms = max(0, max_end_silence_ms - rules.speech_off_ms)
        into_silence = max(0, end_silence_ms // frame_ms - rules.lookahead - 1)
        held = max(0, rules.lookahead)
        spans: list[tuple[int, int]] = []
        speech_on, speech_off = rules.speech_on, rules.speech_off
        for frame, speech in enumerate(decisions, self.frame):
            self.frame = frame + 1
            self.count += speech - (self.history >> oldest)
            self.history = (self.history << 1 | speech) & mask
            was_voiced = self.voiced
            self.voiced = self.count > (speech_off if was_voiced else speech_on - 1)
            if self.begin == _CLOSED:
                if self.voiced:
                    self.begin = max(self.floor, frame - rules.window - rules.lookback)
                    self.floor, self.silence = frame + 1, 0
                continue
            self.silence = 0 if self.voiced or was_voiced else self.silence + 1
            if self.silence and self.silence * frame_ms >= end_silence_ms:
                spans.append(self._end(frame - into_silence))
            elif (frame - self.begin + 1) * frame_ms > max_span_ms:
                spans.append(self._end(frame))
            elif self.silence <= held:
                self.floor = frame + 1
        return spans

    def close(self) -> list[tuple[int, int]]:
        """End of the recording: the span that is still open, if any, ends with the last frame."""
        return [] if self.begin == _CLOSED else [self._end(self.frame - 1)]

    def _end(self, last: int) -> tuple[int, int]:
        """Close the open span after the frame ``last``, and forget the window."""
        span = (self.begin, last + 1)
        self.begin, self.floor = _CLOSED, max(self.floor, last) + 1
        self.voiced, self.count, self.history, self.silence = False, 0, 0, 0
        return span
