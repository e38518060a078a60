"""Training clips of the Qwen3 models: synthesized, degraded, and cached as Whisper's mel energies in shards.

The cache holds log10 energies before Whisper's limit of 8 below the maximum and its scaling, because both
depend on the window of up to 8 s that a clip ends up in.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from transformers import WhisperFeatureExtractor

from starter.augment import random_degradation
from starter.noise import low_tones, noise_clip
from starter.paraformer_data import join, random_voice
from starter.qwen3_tokenizer import character_id
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import MARKS, TextGenerator, split_of
from starter.voices import Voice

SPEECH_SHARDS, NOISE_SHARDS = 100, 8
MEL_BINS, HOP, FRAMES_PER_SECOND = 128, 160, 100
LONGEST_SECONDS = 31.0
_SINGLES, _TALKS, _NOISES_IN_NOISE_SHARD = 150, 30, 200
_FFT = 400


@dataclass(frozen=True, slots=True)
class MarkedClip:
    """samples: float32, 16 kHz mono. ids: int64 [n], tokens of its characters. marks: int64 [n], the token
    of the mark that follows each, or -1. times: float32 [n, 2], seconds.
    """

    samples: NDArray[np.float32]
    ids: NDArray[np.int64]
    marks: NDArray[np.int64]
    times: NDArray[np.float32]


@cache
def _mel_filters() -> torch.Tensor:
    filters = WhisperFeatureExtractor(feature_size=MEL_BINS).mel_filters
    return torch.from_numpy(np.asarray(filters, np.float32)).T.contiguous()


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """log10 of the mel energies every 10 ms, float32 [samples // 160, 128], as `WhisperFeatureExtractor` has
    them before it limits and scales them.
    """
    spectrum = torch.stft(
        torch.from_numpy(samples), _FFT, HOP, window=torch.hann_window(_FFT), return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    energies: NDArray[np.float32] = (_mel_filters() @ power).clamp_min(1e-10).log10().T.numpy()
    return energies


def split_marks(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(characters, marks) of a text as token ids, int64 [n] each; -1 where no mark follows a character."""
    ids: list[int] = []
    marks: list[int] = []
    for letter in text:
        if letter in MARKS:
            marks[-1] = character_id(letter)
        else:
            ids.append(character_id(letter))
            marks.append(-1)
    return np.array(ids, np.int64), np.array(marks, np.int64)


def speak(
    sentences: list[str], voices: list[Voice], pauses: list[float], synthesizer: Synthesizer
) -> MarkedClip:
    """Sentences one after the other; `pauses` holds one more entry than there are sentences, seconds."""
    clip = join(list(zip(sentences, voices, strict=True)), pauses, synthesizer)
    ids, marks = split_marks("".join(sentences))
    return MarkedClip(clip.samples, ids, marks, clip.times)


def _sentences(texts: TextGenerator, count: int, *, talk: bool) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        drawn = texts.talk(count) if talk else [texts.sentence()]
        found += [sentence for sentence in drawn if split_of(sentence) == "train"]
    return found[:count]


def _single(texts: TextGenerator, synthesizer: Synthesizer, rng: np.random.Generator) -> MarkedClip:
    pauses = [float(pause) for pause in rng.uniform(0, 0.5, 2)]
    return speak(_sentences(texts, 1, talk=False), [random_voice(rng)], pauses, synthesizer)


def _talk(texts: TextGenerator, synthesizer: Synthesizer, rng: np.random.Generator) -> MarkedClip:
    count = int(rng.integers(2, 6))
    sentences = _sentences(texts, count, talk=bool(rng.random() < 0.5))
    voice, change = random_voice(rng), rng.random() < 0.2
    voices = [random_voice(rng) if change else voice for _ in sentences]
    pauses = [rng.uniform(0, 0.5), *rng.uniform(0.05, 1.3, count - 1), rng.uniform(0, 0.5)]
    return speak(sentences, voices, [float(pause) for pause in pauses], synthesizer)


def noise(rng: np.random.Generator, longest: float) -> MarkedClip:
    """A clip without speech of 0.2 to `longest` seconds."""
    seconds = float(rng.uniform(0.2, longest))
    if rng.random() < 0.15:
        samples = low_tones(round(seconds * SAMPLE_RATE), rng)
    else:
        samples = noise_clip(seconds, rng)
    nothing = np.zeros(0, np.int64)
    return MarkedClip(samples, nothing, nothing, np.zeros((0, 2), np.float32))


def _clips(seed: int, index: int, rng: np.random.Generator) -> list[MarkedClip]:
    if index >= SPEECH_SHARDS:
        return [noise(rng, 8) for _ in range(_NOISES_IN_NOISE_SHARD)]
    # Other sentences and voices than the Paraformer's, so that both can be looked at together.
    texts = TextGenerator(seed * 200_003 + index)
    synthesizer = Synthesizer()
    clips = [_single(texts, synthesizer, rng) for _ in range(_SINGLES)]
    return clips + [_talk(texts, synthesizer, rng) for _ in range(_TALKS)]


def _make_shard(path: Path, seed: int, index: int) -> Path:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, index, 3))
    features, kept = [], []
    for clip in _clips(seed, index, rng):
        if len(clip.samples) > LONGEST_SECONDS * SAMPLE_RATE or len(clip.samples) < _FFT:
            continue
        degraded = random_degradation(clip.samples, rng) if rng.random() < 0.9 else clip.samples
        features.append(log_mel(degraded).astype(np.float16))
        kept.append(clip)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        features=np.concatenate(features),
        frames=np.array([len(part) for part in features], np.int32),
        ids=np.concatenate([clip.ids for clip in kept]).astype(np.int16),
        marks=np.concatenate([clip.marks for clip in kept]).astype(np.int16),
        lengths=np.array([len(clip.ids) for clip in kept], np.int32),
        times=np.concatenate([clip.times for clip in kept]),
    )
    return partial.rename(path)


def make_shards(directory: Path, seed: int, processes: int) -> list[Path]:
    """The paths of all shards, making those that are missing. Raises BrokenProcessPool if a worker dies."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"shard-{seed}-{index:03d}.npz" for index in range(SPEECH_SHARDS + NOISE_SHARDS)]
    missing = [(index, path) for index, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_make_shard, path, seed, index) for index, path in missing]
            for future in track(as_completed(futures), "synthesizing speech", total=len(futures)):
                future.result()
    return paths


@dataclass(frozen=True, slots=True)
class Cache:
    """All clips one after the other. features: float16 [frames, 128]; ids, marks: int16; times: float32
    [n, 2], seconds. frame_starts and id_starts hold one more entry than there are clips.
    """

    features: NDArray[np.float16]
    frame_starts: NDArray[np.int64]
    ids: NDArray[np.int16]
    marks: NDArray[np.int16]
    id_starts: NDArray[np.int64]
    times: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frame_starts) - 1

    @property
    def seconds(self) -> float:
        return len(self.features) / FRAMES_PER_SECOND


def merge_shards(paths: list[Path], directory: Path) -> None:
    """Write the shards' contents as plain arrays, so that all training processes map the same memory."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "times.npy").exists():
        return
    parts = [np.load(path) for path in paths]
    for name in ("features", "ids", "marks"):
        np.save(directory / f"{name}.npy", np.concatenate([part[name] for part in parts]))
    for name, source in (("frame_starts", "frames"), ("id_starts", "lengths")):
        counts = np.concatenate([part[source] for part in parts]).astype(np.int64)
        np.save(directory / f"{name}.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(directory / "times.npy", np.concatenate([part["times"] for part in parts]))


def open_cache(directory: Path) -> Cache:
    names = ("features", "frame_starts", "ids", "marks", "id_starts", "times")
    return Cache(**{name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in names})
