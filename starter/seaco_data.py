"""Clips of the hotword model, already through the frozen recognizer: what training needs of each is a row for
every token.

A shard is one .npz file made by one worker from its own seed, so a run that is killed keeps every finished
shard and the data does not depend on how many workers made it.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from funasr.models.paraformer.model import Paraformer
from numpy.typing import NDArray
from rich.progress import track

from deployments.engines.model_files import ModelFiles, read_model_files
from starter.augment import random_degradation
from starter.paraformer_data import encode, filter_bank, random_voice
from starter.paraformer_model import build, stack_frames
from starter.seaco_names import NameGenerator, Spoken, spellings
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import Split
from starter.voices import Voice

SHARDS = 60
_WITH_NAMES, _PLAIN, _JOINED = 240, 70, 50
SYLLABLES: tuple[str, ...] = tuple(sorted(spellings()))
"""A syllable's number is its place here; those that no name is spelled with have the number -1."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the recognizer made of one clip of n characters, the token that ends it included.

    acoustic, hidden: float16 [n + 1, width], the acoustic embeddings and what the decoder made of them.
    ids: int64 [n + 1], the tokens that were spoken, </s> at last. heard: int64 [n + 1], those that the
    recognizer wrote without hotwords. syllables: int64 [n + 1]. names: begin and end (exclusive) of each.
    """

    acoustic: NDArray[np.float16]
    hidden: NDArray[np.float16]
    ids: NDArray[np.int64]
    heard: NDArray[np.int64]
    syllables: NDArray[np.int64]
    names: tuple[tuple[int, int], ...]


class FrozenRecognizer:
    """A trained starter Paraformer as FunASR's class, for its embeddings."""

    def __init__(self, model_dir: Path) -> None:
        self.files: ModelFiles = read_model_files(model_dir)
        self.model: Paraformer = build(ctc_weight=0.0)
        state = {name: value.float() for name, value in self.files.parameters.items()}
        self.model.load_state_dict(state)
        self.model.eval()

    @torch.inference_mode()
    def __call__(
        self, samples: NDArray[np.float32]
    ) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.int64]]:
        """Acoustic embeddings, hidden states and the likeliest tokens, a row of each for every token."""
        assert self.files.cmvn is not None
        features = (stack_frames(filter_bank(samples, dither=0.0)) + self.files.cmvn[0]) * self.files.cmvn[1]
        lengths = torch.tensor([len(features)])
        encoded, lengths = self.model.encode(torch.from_numpy(features)[None], lengths)
        embeds, count, *_ = self.model.calc_predictor(encoded, lengths)
        tokens = int(count.round())
        embeds = embeds[:, :tokens]
        if tokens == 0:
            empty = np.zeros((0, self.model.encoder.output_size()), np.float16)
            return empty, empty, np.zeros(0, np.int64)
        scores, hidden, _ = self.model.decoder(
            encoded, lengths, embeds, torch.tensor([tokens]), return_hidden=True, return_both=True
        )
        return embeds[0].half().numpy(), hidden[0].half().numpy(), scores[0].argmax(-1).numpy()


def speak(
    spoken: list[tuple[Spoken, Voice]], rng: np.random.Generator, synthesizer: Synthesizer
) -> NDArray[np.float32]:
    """The sentences one after the other, with pauses around them; 16 kHz."""

    def pause(longest: float) -> NDArray[np.float32]:
        return np.zeros(round(float(rng.uniform(0.05, longest)) * SAMPLE_RATE), np.float32)

    parts = [pause(0.5)]
    for sentence, voice in spoken:
        parts += [synthesizer.speak(sentence.pinyin, voice).samples, pause(0.6)]
    return np.concatenate(parts)


def joined(sentences: list[Spoken]) -> Spoken:
    """One text of several sentences."""
    begins = list(accumulate((len(sentence.text) for sentence in sentences), initial=0))
    return Spoken(
        "".join(sentence.text for sentence in sentences),
        tuple(syllable for sentence in sentences for syllable in sentence.syllables),
        " ".join(sentence.pinyin for sentence in sentences),
        tuple(
            (begin + start, begin + end)
            for begin, sentence in zip(begins, sentences, strict=False)
            for start, end in sentence.names
        ),
    )


def make_shards(directory: Path, model_dir: Path, seed: int, processes: int) -> list[Path]:
    """The paths of all shards, making those that are missing. Raises BrokenProcessPool if a worker dies."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"rows-{seed}-{index:03d}.npz" for index in range(SHARDS)]
    missing = [(index, path) for index, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_make_shard, path, model_dir, seed, index) for index, path in missing]
            for future in track(as_completed(futures), "speech through the recognizer", total=len(futures)):
                future.result()
    return paths


def load_shards(paths: list[Path]) -> list[Rows]:
    """All clips of the shards, in order."""
    clips: list[Rows] = []
    for path in paths:
        with np.load(path) as shard:
            ends = np.cumsum(shard["lengths"])[:-1]
            columns = [np.split(shard[name], ends) for name in ("acoustic", "hidden", "ids", "heard", "said")]
            names = np.split(shard["names"], np.cumsum(shard["name_counts"])[:-1])
        for acoustic, hidden, ids, heard, said, spans in zip(*columns, names, strict=True):
            pairs = tuple((int(begin), int(end)) for begin, end in spans)
            clips.append(
                Rows(
                    acoustic,
                    hidden,
                    ids.astype(np.int64),
                    heard.astype(np.int64),
                    said.astype(np.int64),
                    pairs,
                )
            )
    return clips


def clips_of(
    generator: NameGenerator,
    count: tuple[int, int, int],
    rng: np.random.Generator,
    recognizer: FrozenRecognizer,
    synthesizer: Synthesizer,
) -> list[Rows]:
    """Sentences with names, without, and several in a row; those whose tokens the recognizer miscounts are
    left out.
    """
    texts = [[generator.with_names()] for _ in range(count[0])]
    texts += [[generator.plain()] for _ in range(count[1])]
    for _ in range(count[2]):
        makers = (generator.with_names, generator.plain)
        texts.append([makers[int(rng.integers(2))]() for _ in range(int(rng.integers(2, 4)))])
    clips = []
    for sentences in texts:
        voice = random_voice(rng)
        samples = speak([(sentence, voice) for sentence in sentences], rng, synthesizer)
        if rng.random() < 0.8:
            samples = random_degradation(samples, rng)
        acoustic, hidden, heard = recognizer(samples)
        text = joined(sentences)
        if len(heard) == len(text.text) + 1:
            clips.append(_rows(text, acoustic, hidden, heard))
    return clips


@cache
def syllable_numbers() -> dict[str, int]:
    return {syllable: index for index, syllable in enumerate(SYLLABLES)}


def _rows(
    text: Spoken, acoustic: NDArray[np.float16], hidden: NDArray[np.float16], heard: NDArray[np.int64]
) -> Rows:
    numbers = syllable_numbers()
    said = [numbers.get(syllable, -1) for syllable in text.syllables]
    end_of_text = 2
    ids = np.append(encode(text.text), end_of_text)
    return Rows(acoustic, hidden, ids, heard, np.array([*said, -1], np.int64), text.names)


def _make_shard(path: Path, model_dir: Path, seed: int, index: int) -> Path:
    torch.set_num_threads(1)
    rng = np.random.default_rng((seed, index))
    part: Split = "dev" if index == SHARDS - 1 else "train"
    generator = NameGenerator(seed * 100_003 + index, part)
    count = _WITH_NAMES, _PLAIN, _JOINED
    clips = clips_of(generator, count, rng, FrozenRecognizer(model_dir), Synthesizer())
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        acoustic=np.concatenate([clip.acoustic for clip in clips]),
        hidden=np.concatenate([clip.hidden for clip in clips]),
        ids=np.concatenate([clip.ids for clip in clips]).astype(np.int16),
        heard=np.concatenate([clip.heard for clip in clips]).astype(np.int16),
        said=np.concatenate([clip.syllables for clip in clips]).astype(np.int16),
        lengths=np.array([len(clip.ids) for clip in clips]),
        names=np.array([span for clip in clips for span in clip.names], np.int16).reshape(-1, 2),
        name_counts=np.array([len(clip.names) for clip in clips]),
    )
    return partial.rename(path)
