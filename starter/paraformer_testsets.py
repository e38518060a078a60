"""Held-out clips of the recognizer: sentences, commands and talks that it is never trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from funasr.models.paraformer.model import Paraformer
from numpy.typing import NDArray

from starter.alignment import align
from starter.augment import Kind, degrade
from starter.paraformer_data import FIRST_CHARACTER_ID, TOKENS, Clip, filter_bank, join
from starter.paraformer_model import stack_frames
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import Split, TextGenerator, split_of, strip_punctuation
from starter.text_words import SHORT_COMMANDS
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

_DEV_CLIPS = 80


class TestSets:
    """Clips of sentences of one part, in the order of a seed; the same arguments give the same clips."""

    __test__ = False

    def __init__(self, part: Split, seed: int) -> None:
        self._part, self._seed = part, seed
        self._synthesizer = Synthesizer()

    def sentences(self, count: int, voices: tuple[Voice, ...], *, longest: int = 30) -> list[Clip]:
        """Different held-out sentences of at most `longest` characters, the voices taking turns."""
        rng = np.random.default_rng(self._seed)
        texts = self._held_out(TextGenerator(self._seed), longest)
        order = rng.permutation(len(voices))
        return [self._speak([next(texts)], voices[order[index % len(voices)]], rng) for index in range(count)]

    def commands(self, voices: tuple[Voice, ...]) -> list[Clip]:
        """The one- and two-character commands, each by one voice."""
        rng = np.random.default_rng(self._seed)
        short = [command for command in SHORT_COMMANDS if len(command) <= 2]
        return [self._speak([command], voices[int(rng.integers(len(voices)))], rng) for command in short]

    def talks(self, count: int, seconds: float, voices: tuple[Voice, ...]) -> list[Clip]:
        """Held-out sentences by one voice with pauses of 0.2 to 1.2 s, each talk about `seconds` long."""
        rng = np.random.default_rng(self._seed)
        texts = self._held_out(TextGenerator(self._seed), 30)
        talks: list[Clip] = []
        for _ in range(count):
            voice = voices[int(rng.integers(len(voices)))]
            sentences = [next(texts)]
            while True:
                talk = self._speak(sentences, voice, np.random.default_rng((self._seed, len(talks))))
                if len(talk.samples) >= seconds * SAMPLE_RATE:
                    break
                sentences.append(next(texts))
            talks.append(talk)
        return talks

    def _held_out(self, texts: TextGenerator, longest: int) -> Iterator[str]:
        seen: set[str] = set()
        while True:
            sentence = texts.sentence()
            spoken = strip_punctuation(sentence)
            if split_of(sentence) == self._part and spoken not in seen and len(spoken) <= longest:
                seen.add(spoken)
                yield sentence

    def _speak(self, sentences: list[str], voice: Voice, rng: np.random.Generator) -> Clip:
        pauses = [0.3, *rng.uniform(0.2, 1.2, len(sentences) - 1), 0.3]
        return join(
            [(sentence, voice) for sentence in sentences],
            [float(pause) for pause in pauses],
            self._synthesizer,
        )


def degraded(clips: list[Clip], kind: Kind, seed: int) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [Clip(degrade(clip.samples, kind, rng), clip.text, clip.times) for clip in clips]


@dataclass(frozen=True, slots=True)
class DevSet:
    """Filter banks and texts to watch a training by: `seen` decides, `unseen` is only looked at."""

    seen: list[tuple[NDArray[np.float32], str]]
    unseen: list[tuple[NDArray[np.float32], str]]

    def score(
        self,
        decode: Callable[[torch.Tensor], str],
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
    ) -> tuple[float, float]:
        """Character error rates (0 to 1 and above); `decode` gives the text of features [1, frames, 560]."""
        rates = []
        for clips in (self.seen, self.unseen):
            errors = 0
            for features, text in clips:
                stacked = (stack_frames(features) - mean) / deviation
                errors += align(text, decode(torch.from_numpy(stacked)[None]))[0]
            rates.append(errors / sum(len(text) for _, text in clips))
        return rates[0], rates[1]


@torch.inference_mode()
def greedy(model: Paraformer, speech: torch.Tensor) -> str:
    """The text of features [1, frames, 560], decoded as `Paraformer.inference` does."""
    encoded, lengths = model.encode(speech, torch.tensor([speech.shape[1]]))
    embeddings, counts, _, _ = model.calc_predictor(encoded, lengths)
    counts = counts.round().long()
    if int(counts.max()) < 1:
        return ""
    scores, _ = model.cal_decoder_with_predictor(encoded, lengths, embeddings, counts)
    ids = scores[0, : int(counts[0])].argmax(-1).tolist()
    return "".join(TOKENS[token] for token in ids if token >= FIRST_CHARACTER_ID)


def make_dev_set(seed: int) -> DevSet:
    sets = TestSets("dev", seed)
    parts = []
    for voices in (SEEN_VOICES, UNSEEN_VOICES):
        clips = degraded(sets.sentences(_DEV_CLIPS, voices), "light", seed)
        parts.append([(filter_bank(clip.samples, dither=0.0), clip.text) for clip in clips])
    return DevSet(parts[0], parts[1])
