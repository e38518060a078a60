"""Training clips of the recognizer: synthesized, degraded, turned into filter banks and cached in shards.

A shard is one .npz file made by one worker from its own seed, so a run that is killed keeps every finished
shard and the data does not depend on how many workers made it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from funasr.frontends.wav_frontend import WavFrontend
from numpy.typing import NDArray
from rich.progress import track

from starter.augment import random_degradation
from starter.noise import noise_clip
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import CHARACTERS, TextGenerator, split_of, strip_punctuation, to_pinyin_input
from starter.voices import SEEN_VOICES, Voice

SPEECH_SHARDS, NOISE_SHARDS = 100, 10
_SINGLES, _TALKS, _NOISES, _NOISES_IN_NOISE_SHARD = 140, 40, 8, 400
_MAX_TALK_SECONDS = 26.0
FIRST_CHARACTER_ID = 3
"""Token 0 is <blank>, 1 <s>, 2 </s>; <unk> comes after the last character."""
TOKENS: tuple[str, ...] = ("<blank>", "<s>", "</s>", *CHARACTERS, "<unk>")

_IDS = {character: index + FIRST_CHARACTER_ID for index, character in enumerate(CHARACTERS)}


@dataclass(frozen=True, slots=True)
class Clip:
    """samples: float32, 16 kHz mono. text: its characters, no marks. times: float32 [n, 2], seconds."""

    samples: NDArray[np.float32]
    text: str
    times: NDArray[np.float32]


def encode(text: str) -> NDArray[np.int64]:
    """Token ids of characters without marks. Raises KeyError for one that is not in CHARACTERS."""
    return np.array([_IDS[character] for character in text], np.int64)


def filter_bank(samples: NDArray[np.float32], dither: float) -> NDArray[np.float32]:
    """80 log mel energies every 10 ms, float32 [frames, 80], by FunASR's own front end."""
    frontend = WavFrontend(fs=SAMPLE_RATE, window="hamming", n_mels=80, lfr_m=1, lfr_n=1, dither=dither)
    features, _ = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return np.asarray(features[0].numpy(), np.float32)


def join(utterances: list[tuple[str, Voice]], pauses: list[float], synthesizer: Synthesizer) -> Clip:
    """Sentences spoken one after the other; `pauses` holds one more entry than there are sentences,
    seconds.
    """
    parts = [np.zeros(round(pauses[0] * SAMPLE_RATE), np.float32)]
    times: list[tuple[float, float]] = []
    for (sentence, voice), pause in zip(utterances, pauses[1:], strict=True):
        start = sum(map(len, parts)) / SAMPLE_RATE
        spoken = synthesizer.speak(to_pinyin_input(sentence), voice)
        times += [(start + begin, start + end) for begin, end in spoken.char_times]
        parts += [spoken.samples, np.zeros(round(pause * SAMPLE_RATE), np.float32)]
    text = "".join(strip_punctuation(sentence) for sentence, _ in utterances)
    return Clip(np.concatenate(parts), text, np.array(times, np.float32).reshape(-1, 2))


def random_voice(rng: np.random.Generator) -> Voice:
    """A voice of SEEN_VOICES near its own settings, or (every second time) with settings from all over the
    range.
    """
    voice = SEEN_VOICES[int(rng.integers(len(SEEN_VOICES)))].jitter(rng)
    if rng.random() < 0.5:
        return voice
    return Voice(
        name=voice.name,
        variant=voice.variant,
        rate_wpm=int(rng.integers(165, 300)),
        pitch=int(rng.integers(20, 85)),
        pitch_range=int(rng.integers(25, 90)),
        formant_shift=float(rng.uniform(0.86, 1.15)),
    )


def _training_sentence(texts: TextGenerator) -> str:
    while split_of(sentence := texts.sentence()) != "train":
        pass
    return sentence


def _training_talk(texts: TextGenerator, count: int) -> list[str]:
    sentences: list[str] = []
    while len(sentences) < count:
        sentences += [sentence for sentence in texts.talk(count) if split_of(sentence) == "train"]
    return sentences[:count]


def _single(texts: TextGenerator, synthesizer: Synthesizer, rng: np.random.Generator) -> Clip:
    pauses = [float(rng.uniform(0, 0.5)), float(rng.uniform(0, 0.5))]
    return join([(_training_sentence(texts), random_voice(rng))], pauses, synthesizer)


def _talk(texts: TextGenerator, synthesizer: Synthesizer, rng: np.random.Generator) -> Clip:
    count = int(rng.integers(2, 9))
    if rng.random() < 0.5:
        sentences = _training_talk(texts, count)
    else:
        sentences = [_training_sentence(texts) for _ in range(count)]
    voice = random_voice(rng)
    change = rng.random() < 0.2
    spoken = [(sentence, random_voice(rng) if change else voice) for sentence in sentences]
    pauses = [
        float(pause)
        for pause in (rng.uniform(0, 0.5), *rng.uniform(0.05, 1.5, count - 1), rng.uniform(0, 0.5))
    ]
    return join(spoken, pauses, synthesizer)


def _noise(rng: np.random.Generator, longest: float) -> Clip:
    samples = noise_clip(float(rng.uniform(0.2, longest)), rng)
    return Clip(samples, "", np.zeros((0, 2), np.float32))


def _speech_clips(seed: int, index: int, rng: np.random.Generator) -> list[Clip]:
    texts = TextGenerator(seed * 100_003 + index)
    synthesizer = Synthesizer()
    clips = [_single(texts, synthesizer, rng) for _ in range(_SINGLES)]
    clips += [_talk(texts, synthesizer, rng) for _ in range(_TALKS)]
    return clips + [_noise(rng, 8) for _ in range(_NOISES)]


def _make_shard(path: Path, seed: int, index: int) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(seed * 100_003 + index)
    rng = np.random.default_rng((seed, index))
    if index < SPEECH_SHARDS:
        clips = _speech_clips(seed, index, rng)
    else:
        clips = [_noise(rng, 8) for _ in range(_NOISES_IN_NOISE_SHARD)]
    features, texts_ids, times = [], [], []
    for clip in clips:
        if len(clip.samples) > _MAX_TALK_SECONDS * SAMPLE_RATE:
            continue
        degraded = random_degradation(clip.samples, rng) if rng.random() < 0.9 else clip.samples
        features.append(filter_bank(degraded, dither=float(rng.integers(2))).astype(np.float16))
        texts_ids.append(encode(clip.text).astype(np.int16))
        times.append(clip.times)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        features=np.concatenate(features),
        frames=np.array([len(part) for part in features], np.int32),
        ids=np.concatenate(texts_ids),
        lengths=np.array([len(part) for part in texts_ids], np.int32),
        times=np.concatenate(times),
    )
    return partial.rename(path)


def make_shards(directory: Path, seed: int, processes: int) -> list[Path]:
    """The paths of all shards, making those that are missing. Raises BrokenProcessPool if a worker
    dies.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"shard-{seed}-{index:03d}.npz" for index in range(SPEECH_SHARDS + NOISE_SHARDS)]
    missing = [(index, path) for index, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_make_shard, path, seed, index) for index, path in missing]
            for future in track(as_completed(futures), "synthesizing speech", total=len(futures)):
                future.result()
    return paths
