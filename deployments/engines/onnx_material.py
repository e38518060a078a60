"""What exported models are compared on: recordings or texts that are given, or ones made here.

What is made here is not for measuring how well a model hears: it need only take it through all that it does.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.onnx_export import Material

Samples = npt.NDArray[np.float64]

_PIECE = 20 * SAMPLE_RATE
"""Recordings are cut into pieces of this length, as recognizers get them."""
_TEXTS, _RANDOM_WORDS = 12, 150
_SENTENCES = (
    "今天天气怎么样明天会下雨吗",
    "我们先看一下上个月的数据然后再讨论下一步的计划",
    "请问去火车站怎么走大概需要多长时间",
    "苹果香蕉和橙子都要买一点",
    "他说他不知道这件事可是我觉得他在开玩笑",
    "会议定在下午三点请大家准时参加",
    "你好我想预订一个两个人的房间住三个晚上",
    "如果有问题可以随时给我打电话",
)


def speech_like(seconds: float, seed: int = 0) -> Pcm:
    """Syllables of voiced sound with moving formants, in phrases between pauses, over a quiet noise."""
    rng = np.random.default_rng(seed)
    pieces = [_silence(rng, 0.5)]
    while sum(map(len, pieces)) < seconds * SAMPLE_RATE:
        pitch = rng.uniform(90, 240)
        pieces += [_syllable(rng, pitch * rng.uniform(0.9, 1.1)) for _ in range(rng.integers(3, 12))]
        pieces.append(_silence(rng, rng.uniform(0.3, 1.5)))
    samples = np.concatenate(pieces)[: int(seconds * SAMPLE_RATE)]
    return (samples + rng.normal(0, 12, len(samples))).clip(-32768, 32767).astype(np.int16)


def _syllable(rng: np.random.Generator, pitch: float) -> Samples:
    time = np.arange(int(rng.uniform(0.12, 0.3) * SAMPLE_RATE)) / SAMPLE_RATE
    formants = rng.uniform([250, 800, 2200], [900, 2200, 3200])
    harmonics = np.arange(1, int(4000 / pitch))
    nearness = np.exp(-(((harmonics[:, None] * pitch - formants) / 180) ** 2)).sum(axis=1) + 0.02
    phases = 2 * np.pi * pitch * harmonics[:, None] * (time + 0.02 * time**2)
    voice = (nearness[:, None] * np.sin(phases)).sum(axis=0) * np.hanning(len(time)) ** 0.25
    louder: Samples = voice * rng.uniform(1500, 6000) / nearness.sum()
    return louder


def _silence(rng: np.random.Generator, seconds: float) -> Samples:
    return rng.normal(0, 3, int(seconds * SAMPLE_RATE))


def texts_of(tokens: Sequence[str], seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Texts as words: sentences in Chinese in random order, and random words of a vocabulary."""
    rng = np.random.default_rng(seed)
    words = [token for token in tokens if token and token[0] != "<" and token.isalnum()] or ["好"]
    texts = []
    for _ in range(_TEXTS):
        spoken = "".join(_SENTENCES[index] for index in rng.permutation(len(_SENTENCES)))
        drawn = (words[index] for index in rng.integers(len(words), size=_RANDOM_WORDS))
        texts.append((*spoken, *drawn))
    return tuple(texts)


def material_of(recordings: Sequence[Pcm], texts: Sequence[Sequence[str]], tokens: Sequence[str]) -> Material:
    """What is given; what is made here where nothing is."""
    audio = tuple(piece for samples in recordings or [speech_like(60)] for piece in _pieces(samples))
    return Material(audio, tuple(map(tuple, texts)) or texts_of(tokens))


def _pieces(samples: Pcm) -> Iterator[Pcm]:
    for begin in range(0, max(1, len(samples)), _PIECE):
        yield samples[begin : begin + _PIECE]
