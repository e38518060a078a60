"""The synthesizer's character times, the voices' split, degradations and noises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import welch

from starter import noise
from starter.augment import (
    KINDS,
    SAMPLE_RATE,
    Kind,
    Samples,
    add_noise,
    degrade,
    pad,
    speech_level,
    telephony,
)
from starter.synth import Synthesizer, Utterance, count_units
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice
from tests.espeak import needs_espeak

SENTENCE = "请把客厅的空调调到二十六度，明天上午九点，我们在yin2 hang2 门口见面。"


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


@pytest.fixture(scope="module")
def utterance(synthesizer: Synthesizer) -> Utterance:
    return synthesizer.speak(SENTENCE, SEEN_VOICES[3])


def test_unseen_variants_are_never_trained_on() -> None:
    seen = {voice.variant for voice in SEEN_VOICES}
    unseen = {voice.variant for voice in UNSEEN_VOICES}
    assert not seen & unseen
    assert {"m5", "f4", "Marco", "Alicia"} <= unseen
    assert len(SEEN_VOICES) >= 70
    assert len(unseen) >= 8
    assert not {"Annie", "Demonic", "rob"} & (seen | unseen)
    names = [voice.name for voice in (*SEEN_VOICES, *UNSEEN_VOICES)]
    assert len(set(names)) == len(names)


def test_jitter_is_seeded_and_keeps_the_speaker() -> None:
    voice = SEEN_VOICES[0]
    first, again = (voice.jitter(np.random.default_rng(1)) for _ in range(2))
    other = voice.jitter(np.random.default_rng(2))
    assert first == again != other
    assert (first.name, first.variant) == (voice.name, voice.variant)
    assert abs(first.formant_shift / voice.formant_shift - 1) <= 0.02


@needs_espeak
@pytest.mark.parametrize("voice", [*SEEN_VOICES[::9], *UNSEEN_VOICES], ids=lambda voice: voice.name)
def test_every_character_has_its_time(synthesizer: Synthesizer, voice: Voice) -> None:
    spoken = synthesizer.speak(SENTENCE, voice)
    times = spoken.char_times
    assert len(times) == count_units(SENTENCE) == 28
    assert all(begin < end for begin, end in times)
    assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(times))
    assert times[0][0] >= 0
    assert times[-1][1] <= spoken.duration
    assert spoken.samples.dtype == np.float32
    assert 0.6 < np.abs(spoken.samples).max() <= 1.0

    inside = np.zeros(len(spoken.samples), np.bool_)
    for begin, end in times:
        inside[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = True
    energy = spoken.samples.astype(np.float64) ** 2
    # Two variants have an echo that rings on into the pauses.
    assert energy[~inside].mean() < 0.05 * energy[inside].mean()
    loudness = [energy[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)].mean() for begin, end in times]
    assert min(loudness) > 1e-3 * energy[inside].mean()


@needs_espeak
def test_times_follow_the_pauses_at_commas(utterance: Utterance) -> None:
    gaps = [right[0] - left[1] for left, right in pairwise(utterance.char_times)]
    first_comma, second_comma = 12, 18
    assert {first_comma, second_comma} == {index for index, gap in enumerate(gaps) if gap > 0.05}


@needs_espeak
def test_rate_is_kept_when_the_formants_shift(synthesizer: Synthesizer) -> None:
    voice = replace(SEEN_VOICES[3], rate_wpm=200, formant_shift=1.0)
    plain = synthesizer.speak(SENTENCE, voice)
    shifted = synthesizer.speak(SENTENCE, replace(voice, formant_shift=1.12))
    assert shifted.duration == pytest.approx(plain.duration, rel=0.06)
    assert _centroid(shifted.samples) > 1.05 * _centroid(plain.samples)


@needs_espeak
def test_another_voice_in_between_leaves_no_trace(synthesizer: Synthesizer) -> None:
    first = synthesizer.speak("今天天气怎么样？", UNSEEN_VOICES[0])
    synthesizer.speak("别的话。", SEEN_VOICES[5])
    again = synthesizer.speak("今天天气怎么样？", UNSEEN_VOICES[0])
    # espeak carries the phase of its oscillators over, so the samples and times are not equal to the bit.
    assert np.ravel(again.char_times) == pytest.approx(np.ravel(first.char_times), abs=0.02)
    assert _centroid(again.samples) == pytest.approx(_centroid(first.samples), rel=0.05)


@needs_espeak
def test_speech_of_a_fresh_process_is_always_the_same() -> None:
    program = (
        "import hashlib; from starter.synth import Synthesizer; from starter.voices import SEEN_VOICES\n"
        "speaker = Synthesizer(); voices = SEEN_VOICES[:6]\n"
        "audio = b''.join(speaker.speak('现在几点了？', voice).samples.tobytes() for voice in voices)\n"
        "print(hashlib.sha256(audio).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    digests = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_degradations_keep_length_type_and_range(kind: Kind) -> None:
    signal = _voiced_signal()
    degraded = degrade(signal, kind, np.random.default_rng(0))
    assert degraded.shape == signal.shape
    assert degraded.dtype == np.float32
    assert np.isfinite(degraded).all()
    assert np.abs(degraded).max() <= 1.0
    again = degrade(signal, kind, np.random.default_rng(0))
    assert np.array_equal(degraded, again)


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
def test_noise_has_the_intended_ratio_and_ignores_pauses(snr: float) -> None:
    speech = pad(_voiced_signal() * np.float32(0.3), 1.0, 2.0)
    noisy = add_noise(speech, snr, np.random.default_rng(3))
    # Undo the scaling that keeps the sum within full scale.
    scale = float(np.dot(noisy, speech) / np.dot(speech, speech))
    added = noisy / scale - speech
    measured = 20 * np.log10(speech_level(speech) / added.std())
    assert measured == pytest.approx(snr, abs=0.3)


def test_noise10_is_at_ten_decibels() -> None:
    speech = _voiced_signal()
    noisy = degrade(speech, "noise10", np.random.default_rng(5))
    scale = float(np.dot(noisy, speech) / np.dot(speech, speech))
    measured = 20 * np.log10(speech_level(speech) / (noisy / scale - speech).std())
    assert measured == pytest.approx(10.0, abs=0.5)


def test_telephony_passes_its_band_only() -> None:
    white = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE).astype(np.float32) * np.float32(0.1)
    frequency, before = welch(white, SAMPLE_RATE, nperseg=1024)
    _, after = welch(telephony(white), SAMPLE_RATE, nperseg=1024)
    gain_db = 10 * np.log10(after / before)
    assert abs(gain_db[(frequency > 600) & (frequency < 3000)].mean()) < 1.5
    assert gain_db[frequency < 150].max() < -12
    assert gain_db[frequency > 4100].max() < -25


@needs_espeak
def test_mp3_stays_in_time_and_close_to_the_original(utterance: Utterance) -> None:
    coded = degrade(utterance.samples, "mp3", np.random.default_rng(0))
    correlation = np.corrcoef(coded, utterance.samples)[0, 1]
    assert 0.9 < correlation < 0.99999


@pytest.mark.parametrize("kind", list(noise.KINDS))
def test_noise_clips_are_fixed_by_the_seed(kind: str) -> None:
    first = noise.noise_clip(0.5, np.random.default_rng(7), kind)
    again = noise.noise_clip(0.5, np.random.default_rng(7), kind)
    other = noise.noise_clip(0.5, np.random.default_rng(8), kind)
    assert np.array_equal(first, again)
    assert len(first) == SAMPLE_RATE // 2
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    assert kind == "silence" or not np.array_equal(first, other)
    assert kind != "silence" or not first.any()


def test_pink_noise_falls_three_decibels_an_octave() -> None:
    clip = noise.colored(60 * SAMPLE_RATE, 1.0, np.random.default_rng(0))
    frequency, power = welch(clip, SAMPLE_RATE, nperseg=4096)
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (250, 500, 1000, 2000)]
    assert np.diff(10 * np.log10(bands)) == pytest.approx([-3, -3, -3], abs=0.4)


def test_hum_sits_on_the_mains_frequency() -> None:
    for seed in range(6):
        clip = noise.noise_clip(4.0, np.random.default_rng(seed), "hum")
        frequency, power = welch(clip, SAMPLE_RATE, nperseg=SAMPLE_RATE)
        near = np.zeros(len(frequency), np.bool_)
        for base in (50, 60):
            for harmonic in range(1, 14):
                near |= np.abs(frequency - base * harmonic) <= 3 + 0.003 * base * harmonic
        assert power[near].sum() > 0.8 * power.sum()


def _voiced_signal() -> Samples:
    """Two seconds of a pulse-like tone at 120 Hz."""
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 25))
    return (np.asarray(wave) * 0.3).astype(np.float32)


def _centroid(samples: Samples) -> float:
    frequency, power = welch(samples, SAMPLE_RATE, nperseg=1024)
    return float((frequency * power).sum() / power.sum())
