"""Who the speaker model hears: speakers to train on, speakers to choose a threshold on, speakers to test on.

A speaker is an espeak-ng variant at a pitch and a formant shift. Two speakers of one variant are at least
18 % apart in pitch or 5 % in all formants, most of them more: less is not another person but the same one in
another mood. Besides espeak-ng's own variants there are drawn ones, variant files with random formants,
pitch, breath, roughness and spectral tilt, because a few dozen voices are too few to learn from what tells
voices in general apart. `UNSEEN_VOICES`' variants make up the test speakers and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

DRAWN_VARIANT = "drawn"
"""The file name that a drawn variant is spoken under."""

_DRAWN_TRAINING_SPEAKERS, _DRAWN_DEVELOPMENT_SPEAKERS = 312, 24
_DEVELOPMENT_VARIANTS = ("Hugo", "Lee", "belinda", "f2", "klatt3", "m6")
_SHIFTS = (0.87, 0.95, 1.04, 1.14)
_PITCHES = (32, 45, 58, 72)
_HELD_OUT_SETTINGS = ((38, 0.90), (50, 1.00), (62, 1.10), (72, 0.95))
_RATE_WPM, _PITCH_RANGE = 215, 50


@dataclass(frozen=True, slots=True)
class Speaker:
    """voice: how espeak-ng is to speak. variant_file: text of a drawn variant, "" where `voice` names one."""

    voice: Voice
    variant_file: str = ""

    def utterance_voice(self, rng: np.random.Generator) -> Voice:
        """The speaker on one occasion: rate -25 to +25 %, pitch +-8 %, range, formants +-1.5 %."""
        voice = self.voice
        return replace(
            voice,
            rate_wpm=round(voice.rate_wpm * rng.uniform(0.75, 1.25)),
            pitch=int(np.clip(voice.pitch + rng.integers(-6, 7), 0, 99)),
            pitch_range=int(np.clip(voice.pitch_range + rng.integers(-15, 16), 10, 99)),
            formant_shift=float(voice.formant_shift * rng.uniform(0.985, 1.015)),
        )


def training_speakers(seed: int) -> list[Speaker]:
    """Four speakers of each of espeak-ng's variants that may be trained on, then the drawn ones."""
    rng = np.random.default_rng((seed, 1))
    variants = dict.fromkeys(voice.variant for voice in SEEN_VOICES)
    speakers: list[Speaker] = []
    for variant in variants:
        if variant not in _DEVELOPMENT_VARIANTS:
            settings = zip(rng.permutation(_PITCHES), _SHIFTS, strict=True)
            speakers += [_training_speaker(variant, int(pitch), shift, rng) for pitch, shift in settings]
    return speakers + _drawn_speakers(_DRAWN_TRAINING_SPEAKERS, rng)


def development_speakers(seed: int) -> list[Speaker]:
    """Never trained on: they choose the threshold that the card recommends."""
    rng = np.random.default_rng((seed, 2))
    return _held_out(_DEVELOPMENT_VARIANTS) + _drawn_speakers(_DRAWN_DEVELOPMENT_SPEAKERS, rng)


def unseen_speakers() -> list[Speaker]:
    """Four speakers of each unseen variant: the figures in the card are theirs."""
    return _held_out(tuple(voice.variant for voice in UNSEEN_VOICES))


def own_speakers() -> list[Speaker]:
    """One speaker of each unseen variant, at the pitch and formants that espeak-ng gives it."""
    return [Speaker(voice) for voice in UNSEEN_VOICES]


def draw_variant(rng: np.random.Generator) -> str:
    """The text of an espeak-ng variant file (see its docs/voices.md) with random parameters."""
    tract, low = rng.uniform(0.85, 1.22), rng.uniform(62, 205)
    lines = ["language variant", "name drawn", f"pitch {low:.0f} {low * rng.uniform(1.15, 1.6):.0f}"]
    heights, widths = rng.uniform(70, 120), rng.uniform(75, 150)
    for formant in range(9):
        frequency = 100 * tract * rng.uniform(0.9, 1.1)
        height, width = heights * rng.uniform(0.75, 1.2), widths * rng.uniform(0.8, 1.25)
        offset = rng.uniform(-40, 60) if formant == 1 else rng.uniform(-180, 220) if formant == 2 else 0
        lines.append(f"formant {formant} {frequency:.0f} {height:.0f} {width:.0f} {offset:.0f}")
    lines.append(f"flutter {rng.integers(0, 9)}")
    lines.append(f"roughness {rng.integers(0, 5)}")
    lines.append(f"voicing {rng.integers(40, 140)}")
    lines.append(f"consonants {rng.integers(50, 140)} {rng.integers(50, 140)}")
    lines.append(f"intonation {rng.integers(1, 4)}")
    if rng.random() < 0.6:
        first, second, third = rng.integers(120, 256), rng.integers(60, 256), rng.integers(20, 200)
        lines.append(f"tone 600 {first} 1200 {second} 2000 {third}")
    if rng.random() < 0.3:
        lines.append("breath " + " ".join(str(rng.integers(0, 40)) for _ in range(8)))
        lines.append("breathw 150 150 200 200 400 400")
    if rng.random() < 0.25:
        lines.append(f"klatt {rng.integers(1, 6)}")
    if rng.random() < 0.1:
        lines.append(f"echo {rng.integers(10, 140)} {rng.integers(5, 30)}")
    return "\n".join(lines) + "\n"


def _training_speaker(variant: str, pitch: int, shift: float, rng: np.random.Generator) -> Speaker:
    voice = Voice(
        name=f"{variant}-{pitch}",
        variant=variant,
        rate_wpm=_RATE_WPM,
        pitch=pitch + int(rng.integers(-2, 3)),
        pitch_range=int(rng.integers(35, 70)),
        formant_shift=shift * rng.uniform(0.985, 1.015),
    )
    return Speaker(voice)


def _drawn_speakers(count: int, rng: np.random.Generator) -> list[Speaker]:
    return [
        Speaker(
            Voice(f"drawn-{index}", DRAWN_VARIANT, _RATE_WPM, 50, int(rng.integers(35, 70)), 1.0),
            draw_variant(rng),
        )
        for index in range(count)
    ]


def _held_out(variants: tuple[str, ...]) -> list[Speaker]:
    return [
        Speaker(Voice(f"{variant}-{pitch}-{shift}", variant, _RATE_WPM, pitch, _PITCH_RANGE, shift))
        for variant in variants
        for pitch, shift in _HELD_OUT_SETTINGS
    ]
