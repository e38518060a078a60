"""Held-out test sets of the recognizer, and its figures on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from funasr.models.paraformer.model import Paraformer
from numpy.typing import NDArray
from rich.progress import track

from starter.augment import Kind, degrade
from starter.noise import KINDS, noise_clip
from starter.paraformer_data import TOKENS, Clip, filter_bank, join
from starter.paraformer_model import stack_frames
from starter.registry import Row
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import Split, TextGenerator, split_of, strip_punctuation
from starter.text_words import SHORT_COMMANDS
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

_DEV_CLIPS = 80
_SPECIAL_TOKENS = 3


def align(reference: str, hypothesis: str) -> tuple[int, list[tuple[int, int]]]:
    """Edit distance (Levenshtein), and the index pairs of the characters that a best alignment keeps."""
    rows, columns = len(reference) + 1, len(hypothesis) + 1
    cost = np.zeros((rows, columns), np.int64)
    cost[:, 0], cost[0] = np.arange(rows), np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            differs = reference[i - 1] != hypothesis[j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + differs, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    kept: list[tuple[int, int]] = []
    i, j = rows - 1, columns - 1
    while i > 0 and j > 0:
        differs = reference[i - 1] != hypothesis[j - 1]
        if cost[i, j] == cost[i - 1, j - 1] + differs:
            if not differs:
                kept.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(cost[-1, -1]), kept[::-1]


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
        self, model: Paraformer, mean: NDArray[np.float32], deviation: NDArray[np.float32]
    ) -> tuple[float, float]:
        """Character error rates (0 to 1 and above) with greedy decoding, as `Paraformer.inference` does."""
        model.eval()
        rates = []
        for clips in (self.seen, self.unseen):
            errors = 0
            for features, text in clips:
                stacked = (stack_frames(features) - mean) / deviation
                errors += align(text, _decode(model, torch.from_numpy(stacked)[None]))[0]
            rates.append(errors / sum(len(text) for _, text in clips))
        return rates[0], rates[1]


@torch.inference_mode()
def _decode(model: Paraformer, speech: torch.Tensor) -> str:
    encoded, lengths = model.encode(speech, torch.tensor([speech.shape[1]]))
    embeddings, counts, _, _ = model.calc_predictor(encoded, lengths)
    counts = counts.round().long()
    if int(counts.max()) < 1:
        return ""
    scores, _ = model.cal_decoder_with_predictor(encoded, lengths, embeddings, counts)
    ids = scores[0, : int(counts[0])].argmax(-1).tolist()
    return "".join(TOKENS[token] for token in ids if token >= _SPECIAL_TOKENS)


def make_dev_set(seed: int) -> DevSet:
    sets = TestSets("dev", seed)
    parts = []
    for voices in (SEEN_VOICES, UNSEEN_VOICES):
        clips = degraded(sets.sentences(_DEV_CLIPS, voices), "light", seed)
        parts.append([(filter_bank(clip.samples, dither=0.0), clip.text) for clip in clips])
    return DevSet(parts[0], parts[1])


class Recognizer:
    """A model directory behind `funasr.AutoModel`, from its local path."""

    def __init__(self, model_dir: Path, threads: int = 2) -> None:
        from funasr import AutoModel  # slow to import and not needed for training

        self._model: Any = AutoModel(
            model=str(model_dir.resolve()),
            device="cpu",
            ncpu=threads,
            disable_update=True,
            disable_pbar=True,
            disable_log=True,
        )

    def __call__(self, samples: NDArray[np.float32]) -> tuple[str, NDArray[np.float64]]:
        """The text, and (begin, end) of each character in seconds, float64 [n, 2]."""
        result = self._model.generate(input=samples, output_timestamp=True)[0]
        text = result["text"].replace(" ", "")
        times = np.array(result.get("timestamp", []), np.float64).reshape(-1, 2) / 1000
        return text, times


@dataclass
class _Tally:
    """What was counted over a test set; time errors in seconds."""

    characters: int = 0
    errors: int = 0
    clips: int = 0
    exact: int = 0
    begins: list[float] | None = None
    ends: list[float] | None = None

    @property
    def cer(self) -> float:
        """Percent."""
        return 100 * self.errors / max(1, self.characters)


def _tally(recognizer: Recognizer, clips: list[Clip], name: str) -> _Tally:
    tally = _Tally(begins=[], ends=[])
    for clip in track(clips, name, transient=True):
        text, times = recognizer(clip.samples)
        errors, kept = align(clip.text, text)
        tally.characters += len(clip.text)
        tally.errors += errors
        tally.clips += 1
        tally.exact += text == clip.text
        if tally.begins is not None and tally.ends is not None and len(times) == len(text):
            tally.begins += [abs(times[there][0] - clip.times[here][0]) for here, there in kept]
            tally.ends += [abs(times[there][1] - clip.times[here][1]) for here, there in kept]
    return tally


def _invented(recognizer: Recognizer, seed: int) -> list[Row]:
    rows = []
    for kind in KINDS:
        rng = np.random.default_rng((seed, sorted(KINDS).index(kind)))
        clips = [noise_clip(float(rng.uniform(0.2, 12)), rng, kind) for _ in range(20)]
        wrong = sum(bool(recognizer(clip)[0]) for clip in track(clips, kind, transient=True))
        rows.append(Row(f"no speech: {kind}, 20 clips", "clips with text", wrong, "clips", "<= 0"))
    return rows


def measure(model_dir: Path, clips_per_set: int = 200, seed: int = 2026) -> list[Row]:
    """All figures of the recognizer in `model_dir` on sentences of the test part."""
    recognizer = Recognizer(model_dir)
    sets = TestSets("test", seed)
    rows: list[Row] = []
    timed: _Tally | None = None
    targets: dict[Kind, str] = {"noise10": "<= 15", "telephony": "<= 15", "mp3": "<= 15"}
    labels: dict[Kind, str] = {
        "clean": "clean", "light": "light noise", "noise10": "noise at 10 dB", "telephony": "8 kHz telephony",
        "mp3": "MP3 32 kbit/s",
    }  # fmt: skip
    for voices, which, target in ((SEEN_VOICES, "seen", "<= 4"), (UNSEEN_VOICES, "unseen", "<= 10")):
        plain = sets.sentences(clips_per_set, voices)
        for kind, label in labels.items():
            name = f"{which} voices, {label}"
            tally = _tally(recognizer, degraded(plain, kind, seed), name)
            rows.append(Row(name, "CER", tally.cer, "%", targets.get(kind, target)))
            if which == "seen" and kind == "light":
                timed = tally
    commands = _tally(recognizer, sets.commands(SEEN_VOICES), "commands")
    rows.append(Row("one- and two-character commands (trained on)", "CER", commands.cer, "%"))
    short = _tally(recognizer, sets.sentences(60, SEEN_VOICES, longest=5), "short sentences")
    rows.append(Row("seen voices, held-out sentences of 3 to 5 characters", "CER", short.cer, "%"))
    for seconds, count, target in ((10, 24, ""), (20, 24, "<= 5"), (60, 8, "")):
        name = f"seen voices, talks of {seconds} s, light noise"
        talks = degraded(sets.talks(count, seconds, SEEN_VOICES), "light", seed)
        rows.append(Row(name, "CER", _tally(recognizer, talks, name).cer, "%", target))
    if timed is not None and timed.begins and timed.ends:
        name = "seen voices, light noise"
        rows.append(
            Row(name, "character begin, median error", 1000 * float(np.median(timed.begins)), "ms", "<= 80")
        )
        rows.append(
            Row(name, "character begin, 90th percentile", 1000 * float(np.quantile(timed.begins, 0.9)), "ms")
        )
        rows.append(
            Row(name, "character end, median error", 1000 * float(np.median(timed.ends)), "ms", "<= 80")
        )
    return rows + _invented(recognizer, seed)
