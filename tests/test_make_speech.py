"""Recordings for benchmarks."""

import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_speech import make_recording


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Two utterances: 16 kHz mono, and 8 kHz stereo."""
    directory = tmp_path / "samples"
    directory.mkdir()
    for name, rate, channels in (("a.wav", 16_000, 1), ("b.wav", 8_000, 2)):
        tone = np.sin(np.arange(rate) * 0.3) * 20_000
        with wave.open(str(directory / name), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.repeat(tone, channels).astype("<i2").tobytes())
    return directory


def read(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        frames: bytes = file.readframes(file.getnframes())
    return frames


def test_recording_has_its_length_and_speech_and_pauses(samples: Path, tmp_path: Path) -> None:
    audio = np.frombuffer(read(make_recording(12.5, seed=3, samples=samples, output=tmp_path)), "<i2")
    assert len(audio) == 200_000
    seconds = np.abs(audio[: 12 * 16_000].astype(int)).reshape(-1, 1600).max(axis=1)
    assert (seconds > 5000).any()
    assert (seconds < 200).any()


def test_same_seed_gives_the_same_recording(samples: Path, tmp_path: Path) -> None:
    first = make_recording(5, seed=1, samples=samples, output=tmp_path / "first")
    second = make_recording(5, seed=1, samples=samples, output=tmp_path / "second")
    other = make_recording(5, seed=2, samples=samples, output=tmp_path / "second")
    assert first.name == second.name != other.name
    assert read(first) == read(second) != read(other)


def test_recording_is_made_again_when_the_samples_change(samples: Path, tmp_path: Path) -> None:
    old = make_recording(1, seed=1, samples=samples, output=tmp_path)
    written = old.stat().st_mtime_ns
    assert make_recording(1, seed=1, samples=samples, output=tmp_path) == old
    assert old.stat().st_mtime_ns == written
    (samples / "b.wav").unlink()
    assert make_recording(1, seed=1, samples=samples, output=tmp_path) != old
    assert not list(tmp_path.glob("*.partial"))
