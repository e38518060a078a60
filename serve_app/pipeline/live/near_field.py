"""Silences what comes from afar: a gate on the level, which leaves the timeline as it is.

Level alone decides, over 200 ms at a time, so that what the gate does depends neither on packets nor on
what detection makes of it. A gate that only looked at each frame would bite into words: soft onsets are
kept by looking ahead, soft endings and short pauses by a hold, quiet syllables by a lower threshold
while the sentence may still be going on. That ends two seconds after the last near sound: somebody
farther away, who goes on talking, must not keep the sentence open.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.pipeline.live.events import NearField

_FRAME_MS = 20
_FRAME = SAMPLE_RATE * _FRAME_MS // 1000
_LEVEL_FRAMES = 10
_AHEAD_FRAMES = 5
_HOLD_FRAMES = 15
_QUIET_FRAMES = 100
_NEVER = 1 << 40
_FULL_SCALE = 32768.0


@dataclass(slots=True)
class _Frame:
    samples: Pcm
    near: bool


class NearFieldGate:
    """Audio in at any packet size, the same audio out, 80 ms later, with zeros where it was far away.

    ``sentence_silence_ms``: the pause that ends a sentence.
    """

    def __init__(self, options: NearField, sentence_silence_ms: int) -> None:
        self._outside = (options.threshold * _FULL_SCALE) ** 2
        self._inside = (options.threshold * options.inside * _FULL_SCALE) ** 2
        self._inside_frames = sentence_silence_ms // _FRAME_MS
        self._powers: deque[float] = deque(maxlen=_LEVEL_FRAMES)
        self._undecided: deque[_Frame] = deque()
        self._rest = np.zeros(0, np.int16)
        # Since a window reached the threshold of its time, and since one reached the upper threshold.
        self._far_frames = self._quiet_frames = _NEVER

    def feed(self, samples: Pcm) -> Pcm:
        """Take the next samples; returns those that are decided."""
        joined = np.concatenate((self._rest, samples))
        whole = len(joined) - len(joined) % _FRAME
        self._rest = joined[whole:]
        decided = [np.zeros(0, np.int16)]
        for begin in range(0, whole, _FRAME):
            self._add(joined[begin : begin + _FRAME])
            if len(self._undecided) == _AHEAD_FRAMES:
                decided.append(_heard(self._undecided.popleft()))
        return np.concatenate(decided)

    def flush(self) -> Pcm:
        """No samples follow; returns the last ones."""
        near = bool(self._undecided) and self._undecided[-1].near
        frames = [*self._undecided, _Frame(self._rest, near)]
        return np.concatenate([_heard(frame) for frame in frames])

    def _add(self, samples: Pcm) -> None:
        self._powers.append(float(np.square(samples.astype(np.float32)).mean()))
        self._undecided.append(_Frame(samples, near=False))
        power = sum(self._powers) / len(self._powers)
        inside = self._far_frames < self._inside_frames and self._quiet_frames < _QUIET_FRAMES
        self._quiet_frames = 0 if power >= self._outside else self._quiet_frames + 1
        if power >= (self._inside if inside else self._outside):
            self._far_frames = 0
            for frame in self._undecided:
                frame.near = True
        else:
            self._far_frames += 1
            self._undecided[-1].near = self._far_frames <= _HOLD_FRAMES


def _heard(frame: _Frame) -> Pcm:
    return frame.samples if frame.near else np.zeros_like(frame.samples)
