"""Clips of several utterances with pauses, where they hold speech, and the detector's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from funasr.frontends.wav_frontend import WavFrontendOnline
from numpy.typing import NDArray

from starter import noise
from starter.augment import SAMPLE_RATE, Samples, gain, random_degradation, speech_level
from starter.synth import Synthesizer, Utterance
from starter.text import Split, TextGenerator, split_of, to_pinyin_input
from starter.voices import Voice

FRAME_SECONDS = 0.010
FRAME_CENTER = 0.0125
MEL_BANDS = 80
CONTEXT = 5

_MERGED_GAP = 0.15
_TRIM_DB = 40.0

Spans = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Clip:
    """samples: float32 at 16 kHz. spans: (begin, end) of speech in seconds, without its own pauses.
    utterances: (begin, end) of each whole utterance."""

    samples: Samples
    spans: Spans = field(default_factory=list)
    utterances: Spans = field(default_factory=list)


def speech_spans(utterance: Utterance) -> Spans:
    """Where the clean utterance sounds, in seconds.

    The synthesizer's own character times, joined over gaps below 150 ms and trimmed to the first and last
    10 ms within 40 dB of the utterance's level: a character's time begins with its consonant's closure.
    """
    joined: Spans = []
    for begin, end in utterance.char_times:
        if joined and begin - joined[-1][1] < _MERGED_GAP:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    floor = speech_level(utterance.samples) * 10 ** (-_TRIM_DB / 20)
    trimmed = (_trim(utterance.samples, span, floor) for span in joined)
    return [span for span in trimmed if span is not None]


def frame_labels(spans: Spans, frames: int) -> NDArray[np.bool_]:
    """True for the 10 ms frames whose 25 ms window is centered in a span; shape (frames,)."""
    centers = np.arange(frames) * FRAME_SECONDS + FRAME_CENTER
    labels = np.zeros(frames, np.bool_)
    for begin, end in spans:
        labels |= (centers >= begin) & (centers < end)
    return labels


class ClipMaker:
    """Clips of seeded text, voices, pauses and, for training, degradations."""

    def __init__(self, seed: int, split: Split, voices: tuple[Voice, ...]) -> None:
        self._rng = np.random.default_rng(seed)
        self._voices = voices
        self._split = split
        self._text = TextGenerator(seed)
        self._synthesizer = Synthesizer()

    def training_clip(self, seconds: float) -> Clip:
        """`seconds` of utterances with pauses of 0.05 to 3 s, degraded at random; one in four only noise."""
        if self._rng.random() < 1 / 4:
            return Clip(self._noise(seconds))
        clip = self._compose(seconds, pauses=(0.05, 3.0))
        samples = clip.samples
        if self._rng.random() < 0.2:
            samples = self._with_background(samples)
        degraded = random_degradation(samples, self._rng)
        if self._rng.random() < 0.15:
            degraded = gain(degraded, self._rng, 0.005, 0.05)
        return Clip(degraded, clip.spans, clip.utterances)

    def clean_clip(self, seconds: float, pauses: tuple[float, float]) -> Clip:
        """`seconds` of utterances with pauses drawn evenly from the range, in one voice, not degraded."""
        return self._compose(seconds, pauses, one_voice=True)

    def _compose(self, seconds: float, pauses: tuple[float, float], one_voice: bool = False) -> Clip:
        length = round(seconds * SAMPLE_RATE)
        samples = np.zeros(length, np.float32)
        clip = Clip(samples)
        voice = self._voice()
        position = round(self._rng.uniform(*pauses) * SAMPLE_RATE)
        for utterance in self._utterances(lambda: voice if one_voice else self._voice()):
            end = position + len(utterance.samples)
            if end > length:
                break
            samples[position:end] = gain(utterance.samples, self._rng, 0.3, 0.9)
            offset = position / SAMPLE_RATE
            spans = [(begin + offset, finish + offset) for begin, finish in speech_spans(utterance)]
            clip.spans.extend(spans)
            if spans:
                clip.utterances.append((spans[0][0], spans[-1][1]))
            position = end + round(self._rng.uniform(*pauses) * SAMPLE_RATE)
        return clip

    def _utterances(self, voice: Callable[[], Voice]) -> Iterator[Utterance]:
        while True:
            sentence = self._text.sentence()
            if split_of(sentence) == self._split:
                yield self._synthesizer.speak(to_pinyin_input(sentence), voice())

    def _voice(self) -> Voice:
        return self._voices[int(self._rng.integers(len(self._voices)))].jitter(self._rng)

    def _noise(self, seconds: float) -> Samples:
        """Any kind of noise, but half of the clips are tones, which are the most like voices."""
        draw = self._rng.random()
        if draw < 0.3:
            return noise.low_tones(round(seconds * SAMPLE_RATE), self._rng)
        return noise.noise_clip(seconds, self._rng, "tones" if draw < 0.5 else None)

    def _with_background(self, samples: Samples) -> Samples:
        """Hum, clicks or tones 10 to 30 dB below the speech."""
        kind = str(self._rng.choice(("hum", "clicks", "tones")))
        background = noise.KINDS[kind](len(samples), self._rng)
        loudness = float(np.sqrt(np.mean(background.astype(np.float64) ** 2)))
        scale = speech_level(samples) * 10 ** (-self._rng.uniform(10, 30) / 20) / max(loudness, 1e-9)
        return np.clip(samples + background * np.float32(scale), -1, 1).astype(np.float32)


class Features:
    """FunASR's streaming front end with the model's settings, without its normalization."""

    def __init__(self, settings: dict[str, object]) -> None:
        self._frontend = WavFrontendOnline(**settings)

    def mel(self, samples: Samples) -> NDArray[np.float32]:
        """Log-mel frames, shape (frames, 80): the middle of the front end's stack of five."""
        audio = torch.from_numpy(np.ascontiguousarray(samples))[None]
        stacked, _ = self._frontend(audio, torch.tensor([audio.shape[1]]), is_final=True, cache={})
        middle = CONTEXT // 2 * MEL_BANDS
        return np.asarray(stacked[0, :, middle : middle + MEL_BANDS].numpy(), np.float32)


def stack(mel: torch.Tensor) -> torch.Tensor:
    """Each frame with two neighbors on both sides, the edges repeated: (batch, frames, 80) -> (..., 400)."""
    half = CONTEXT // 2
    padded = torch.cat((mel[:, :1].expand(-1, half, -1), mel, mel[:, -1:].expand(-1, half, -1)), dim=1)
    return padded.unfold(1, CONTEXT, 1).transpose(2, 3).flatten(2)


def _trim(samples: Samples, span: tuple[float, float], floor: float) -> tuple[float, float] | None:
    block = round(FRAME_SECONDS * SAMPLE_RATE)
    first, last = round(span[0] * SAMPLE_RATE), round(span[1] * SAMPLE_RATE)
    usable = (last - first) // block * block
    power = (samples[first : first + usable].astype(np.float64).reshape(-1, block) ** 2).mean(axis=1)
    loud = np.flatnonzero(np.sqrt(power) >= floor)
    if len(loud) == 0:
        return None
    begin, end = first + int(loud[0]) * block, first + (int(loud[-1]) + 1) * block
    return begin / SAMPLE_RATE, end / SAMPLE_RATE
