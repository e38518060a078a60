"""The recognizer's figures on held-out clips, loaded as `funasr.AutoModel` loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard
from numpy.typing import NDArray
from rich.progress import track

from starter.alignment import align
from starter.augment import Kind
from starter.noise import KINDS, noise_clip
from starter.paraformer_data import Clip
from starter.paraformer_testsets import TestSets, degraded
from starter.registry import Row
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_NOISE_CLIPS = 40
CONDITIONS: dict[Kind, tuple[str, str]] = {
    "clean": ("clean", ""),
    "light": ("light noise", ""),
    "noise10": ("noise at 10 dB", "<= 15"),
    "telephony": ("8 kHz telephony", "<= 15"),
    "mp3": ("MP3 32 kbit/s", "<= 15"),
}
"""Degradation -> its label, and its own target where it has one."""


class Transcriber(Protocol):
    def text(self, samples: NDArray[np.float32]) -> str: ...


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

    def text(self, samples: NDArray[np.float32]) -> str:
        """What `AutoModel.generate` answers for float32 samples at 16 kHz."""
        answer: str = self._model.generate(input=samples)[0]["text"]
        return answer.replace(" ", "")

    @torch.inference_mode()
    def times(self, samples: NDArray[np.float32], text: str) -> NDArray[np.float64]:
        """CIF-peak times: (begin, end) of each character of `text` in seconds, float64 [n, 2].

        By FunASR's own rule, called directly: with output_timestamp=True, FunASR 1.4.16's
        `Paraformer.inference` hands its weights and its peaks to `ts_prediction_lfr6_standard` in the wrong
        order, finds no firings, and makes characters about 90 ms late.
        """
        frontend, model = self._model.kwargs["frontend"], self._model.model
        speech, lengths = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        encoded, lengths = model.encode(speech, lengths)
        _, _, alphas, peaks = model.calc_predictor(encoded, lengths)
        _, times = ts_prediction_lfr6_standard(alphas[0], peaks[0], list(text), upsample_rate=1)
        return np.array(times, np.float64).reshape(-1, 2) / 1000


Times = Callable[[NDArray[np.float32], str], NDArray[np.float64]]
"""(begin, end) in seconds of every character of a text in samples, float64 [n, 2]."""


@dataclass
class Tally:
    """What was counted over a test set; time errors in seconds.

    invented_first: clips whose text begins with characters that no one spoke.
    """

    characters: int = 0
    errors: int = 0
    clips: int = 0
    exact: int = 0
    invented_first: int = 0
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def cer(self) -> float:
        """Percent."""
        return 100 * self.errors / max(1, self.characters)

    def time_rows(self, name: str) -> list[Row]:
        """Errors of the character times, none if no times were taken."""
        if not self.begins:
            return []
        begins, ends = 1000 * np.array(self.begins), 1000 * np.array(self.ends)
        return [
            Row(name, "character begin, median error", float(np.median(begins)), "ms", "<= 80"),
            Row(name, "character begin, 90th percentile", float(np.quantile(begins, 0.9)), "ms"),
            Row(name, "character end, median error", float(np.median(ends)), "ms", "<= 80"),
        ]


def count_errors(recognizer: Transcriber, clips: list[Clip], name: str, times: Times | None = None) -> Tally:
    """Over all clips; errors of the character times, too, if there is a function that gives `times`."""
    tally = Tally()
    for clip in track(clips, name, transient=True):
        text = recognizer.text(clip.samples)
        errors, kept = align(clip.text, text)
        tally.characters += len(clip.text)
        tally.errors += errors
        tally.clips += 1
        tally.exact += text == clip.text
        tally.invented_first += bool(kept) and kept[0][1] > kept[0][0]
        if times is not None:
            found = times(clip.samples, text)
            tally.begins += [abs(found[there][0] - clip.times[here][0]) for here, there in kept]
            tally.ends += [abs(found[there][1] - clip.times[here][1]) for here, there in kept]
    return tally


def invented(recognizer: Transcriber, seed: int) -> list[Row]:
    """Of every kind of sound without speech, how many clips of 0.2 to 12 s get a text."""
    rows = []
    for kind in KINDS:
        rng = np.random.default_rng((seed, sorted(KINDS).index(kind)))
        clips = [noise_clip(float(rng.uniform(0.2, 12)), rng, kind) for _ in range(_NOISE_CLIPS)]
        wrong = sum(bool(recognizer.text(clip)) for clip in track(clips, kind, transient=True))
        rows.append(
            Row(f"no speech: {kind}, {_NOISE_CLIPS} clips", "clips with text", wrong, "clips", "<= 0")
        )
    return rows


def _sentences(recognizer: Recognizer, sets: TestSets, count: int, seed: int) -> list[Row]:
    rows = []
    for voices, which, target in ((SEEN_VOICES, "seen", "<= 4"), (UNSEEN_VOICES, "unseen", "<= 10")):
        plain = sets.sentences(count, voices)
        for kind, (label, own_target) in CONDITIONS.items():
            name = f"{which} voices, {label}"
            timed = kind == "light"
            times = recognizer.times if timed else None
            tally = count_errors(recognizer, degraded(plain, kind, seed), name, times)
            rows.append(Row(name, "CER", tally.cer, "%", own_target or target))
            if timed:
                rows += tally.time_rows(name)
    commands = count_errors(recognizer, sets.commands(SEEN_VOICES), "commands")
    rows.append(Row("one- and two-character commands (trained on)", "CER", commands.cer, "%"))
    short = count_errors(recognizer, sets.sentences(60, SEEN_VOICES, longest=5), "short sentences")
    rows.append(Row("seen voices, held-out sentences of 3 to 5 characters", "CER", short.cer, "%"))
    return rows


def _talks(recognizer: Recognizer, sets: TestSets, seed: int) -> list[Row]:
    rows = []
    for seconds, count, target in ((10, 24, ""), (20, 24, "<= 5"), (60, 8, "")):
        name = f"seen voices, talks of {seconds} s, light noise"
        clips = degraded(sets.talks(count, seconds, SEEN_VOICES), "light", seed)
        tally = count_errors(recognizer, clips, name, recognizer.times if seconds == 20 else None)
        rows.append(Row(name, "CER", tally.cer, "%", target))
        rows += tally.time_rows(name)
    return rows


def measure(model_dir: Path, clips_per_set: int = 200, seed: int = 2026) -> list[Row]:
    """All figures of the recognizer in `model_dir` on sentences of the test part."""
    recognizer = Recognizer(model_dir)
    sets = TestSets("test", seed)
    rows = _sentences(recognizer, sets, clips_per_set, seed)
    return rows + _talks(recognizer, sets, seed) + invented(recognizer, seed)
