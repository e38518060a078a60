"""What the speaker model hears: clips of many speakers as filter banks, and crops of them in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from funasr.models.campplus.utils import extract_feature
from funasr.utils import fbank as kaldi
from numpy.typing import NDArray
from rich.progress import track

from starter.augment import SAMPLE_RATE, Samples, add_noise, gain, mp3, pad, telephony
from starter.campplus_speakers import DRAWN_VARIANT, Speaker, training_speakers
from starter.espeak_variants import VariantDirectory
from starter.synth import Synthesizer
from starter.text import Split, TextGenerator, split_of, to_pinyin_input

MEL_BANDS = 80
CLIPS_PER_SPEAKER = 44
CROP_FRAMES = (78, 178)
"""Shortest and longest crop: 0.8 to 1.8 s, in frames of 25 ms every 10 ms."""

_SPEAKERS_PER_SHARD = 18
_SHORTEST_CLIP = 2.3


class SpeakerVoices:
    """Speaks for any speaker, those with a drawn variant included. Use one per process."""

    def __init__(self, root: Path) -> None:
        """root: an empty directory that lasts as long as this object."""
        self._variants = VariantDirectory(root, DRAWN_VARIANT)
        self._synthesizer = Synthesizer(self._variants.path)

    def speak(
        self, speaker: Speaker, texts: TextGenerator, split: Split, seconds: float, rng: np.random.Generator
    ) -> Samples:
        """At least `seconds` of sentences of a split by a speaker, with pauses of 0.05 to 0.4 s between."""
        if speaker.variant_file:
            self._variants.rewrite(speaker.variant_file)
        voice = speaker.utterance_voice(rng)
        parts: list[Samples] = []
        while sum(map(len, parts)) < seconds * SAMPLE_RATE:
            sentence = texts.sentence()
            if split_of(sentence) != split:
                continue
            if parts:
                parts.append(np.zeros(round(rng.uniform(0.05, 0.4) * SAMPLE_RATE), np.float32))
            parts.append(self._synthesizer.speak(to_pinyin_input(sentence), voice).samples)
        return np.concatenate(parts)


def filter_bank(samples: Samples) -> NDArray[np.float32]:
    """Log mel energies as FunASR's CAM++ computes them, before it subtracts their mean: [frames, 80]."""
    features = kaldi.fbank(torch.from_numpy(np.ascontiguousarray(samples))[None], num_mel_bins=MEL_BANDS)
    return np.asarray(features.numpy(), np.float32)


def window_features(samples: Samples) -> torch.Tensor:
    """What FunASR's CAM++ computes from one window of sound: [1, frames, 80]."""
    features: torch.Tensor = extract_feature([torch.from_numpy(np.ascontiguousarray(samples))])[0]
    return features


def disturb(samples: Samples, rng: np.random.Generator) -> Samples:
    """For training: silence around it, rarely a narrow or coded channel, often noise at 5 to 40 dB."""
    padded = pad(samples, rng.uniform(0, 0.25), rng.uniform(0, 0.25))
    channel = rng.random()
    if channel < 0.04:
        padded = telephony(padded)
    elif channel < 0.08:
        padded = mp3(padded)
    if rng.random() < 0.6:
        padded = add_noise(padded, rng.uniform(5, 40), rng)
    return gain(padded, rng)


@dataclass(frozen=True, slots=True)
class Clips:
    """mel: float16 [frames of all clips, 80]. starts: int64 [clips + 1]. speakers: int64 [clips]."""

    mel: NDArray[np.float16]
    starts: NDArray[np.int64]
    speakers: NDArray[np.int64]

    @property
    def hours(self) -> float:
        return len(self.mel) / 360_000

    def batches(
        self, size: int, seed: int, rank: int, processes: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Endless batches of one process: crops float32 [size, frames, 80], mean subtracted, and speakers.

        The processes of a training share out the clips of an epoch and crop to the same length in a step.
        """
        lengths, places = np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2, rank))
        for epoch in range(1 << 30):
            order = np.random.default_rng((seed, 3, epoch)).permutation(len(self.speakers))[rank::processes]
            for first in range(0, len(self.speakers) // processes - size + 1, size):
                frames = int(lengths.integers(CROP_FRAMES[0], CROP_FRAMES[1] + 1))
                rows = order[first : first + size]
                crops = np.stack([self._crop(int(row), frames, places) for row in rows])
                mel = torch.from_numpy(crops.astype(np.float32))
                yield mel - mel.mean(dim=1, keepdim=True), torch.from_numpy(self.speakers[rows])

    def _crop(self, clip: int, frames: int, rng: np.random.Generator) -> NDArray[np.float16]:
        first, last = int(self.starts[clip]), int(self.starts[clip + 1])
        begin = int(rng.integers(first, last - frames + 1))
        return self.mel[begin : begin + frames]


def make_clips(directory: Path, seed: int, processes: int) -> None:
    """Synthesize what is missing in `directory`. Raises BrokenProcessPool if a worker dies."""
    if (directory / "clips.npz").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    count = -(-len(training_speakers(seed)) // _SPEAKERS_PER_SHARD)
    paths = [directory / f"shard-{index:03d}.npz" for index in range(count)]
    missing = [(index, path) for index, path in enumerate(paths) if not path.exists()]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(_make_shard, path, seed, index) for index, path in missing]
        for future in track(as_completed(futures), "synthesizing speakers", total=len(futures)):
            future.result()
    _merge(paths, directory)
    for path in paths:
        path.unlink()


def open_clips(directory: Path) -> Clips:
    """What `make_clips` made; the frames stay on disk and are shared by all processes."""
    with np.load(directory / "clips.npz") as index:
        starts, speakers = index["starts"], index["speakers"]
    return Clips(np.load(directory / "mel.npy", mmap_mode="r"), starts, speakers)


def _make_shard(path: Path, seed: int, index: int) -> None:
    torch.set_num_threads(1)
    rng, texts = np.random.default_rng((seed, 4, index)), TextGenerator(seed * 100_003 + index)
    first = index * _SPEAKERS_PER_SHARD
    mel: list[NDArray[np.float16]] = []
    speakers: list[int] = []
    with tempfile.TemporaryDirectory() as root:
        voices = SpeakerVoices(Path(root))
        chosen = training_speakers(seed)[first : first + _SPEAKERS_PER_SHARD]
        for number, speaker in enumerate(chosen, start=first):
            for _ in range(CLIPS_PER_SPEAKER):
                spoken = voices.speak(speaker, texts, "train", _SHORTEST_CLIP, rng)
                mel.append(filter_bank(disturb(spoken, rng)).astype(np.float16))
                speakers.append(number)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, mel=np.concatenate(mel), frames=[len(part) for part in mel], speakers=speakers)
    partial.replace(path)


def _merge(shards: list[Path], directory: Path) -> None:
    mel, frames, speakers = [], [], []
    for path in shards:
        with np.load(path) as shard:
            mel.append(shard["mel"])
            frames.append(shard["frames"])
            speakers.append(shard["speakers"])
    np.save(directory / "mel.npy", np.concatenate(mel))
    starts = np.concatenate(([0], np.cumsum(np.concatenate(frames), dtype=np.int64)))
    partial = directory / "clips.partial.npz"
    np.savez(partial, starts=starts, speakers=np.concatenate(speakers))
    partial.replace(directory / "clips.npz")
