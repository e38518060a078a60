"""The online recognizer's figures on held-out clips, fed chunk by chunk to `funasr.AutoModel`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from starter.alignment import align
from starter.augment import pad
from starter.paraformer_data import Clip
from starter.paraformer_evaluation import CONDITIONS, count_errors, invented
from starter.paraformer_testsets import TestSets, degraded
from starter.registry import Row
from starter.synth import SAMPLE_RATE
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_SAMPLES_PER_FRAME = 960
_PAUSE_BEFORE, _PAUSE_AFTER = 0.4, 0.8
"""Seconds that a voice activity detector lets pass around a sentence."""
_OTHER_CHUNKS: tuple[tuple[int, int, int], ...] = ((5, 10, 5), (8, 8, 4))


class StreamingRecognizer:
    """A model directory behind `funasr.AutoModel`, from its local path.

    chunk_size: in 60 ms frames: frames heard again, new frames, look-ahead.
    """

    def __init__(
        self, model_dir: Path, threads: int = 2, chunk_size: tuple[int, int, int] = (0, 10, 5)
    ) -> None:
        from funasr import AutoModel  # slow to import and not needed for training

        self._chunk_size = chunk_size
        self._model: Any = AutoModel(
            model=str(model_dir.resolve()),
            device="cpu",
            ncpu=threads,
            disable_update=True,
            disable_pbar=True,
            disable_log=True,
        )

    def answers(self, samples: NDArray[np.float32]) -> Iterator[tuple[float, str]]:
        """Seconds heard and the text that they added, for each `AutoModel.generate(cache=...)` of a session.

        samples: float32, 16 kHz.
        """
        cache: dict[str, Any] = {}
        step = self._chunk_size[1] * _SAMPLES_PER_FRAME
        for start in range(0, len(samples), step):
            chunk = samples[start : start + step]
            answer = self._model.generate(
                input=chunk,
                cache=cache,
                is_final=start + step >= len(samples),
                chunk_size=list(self._chunk_size),
                encoder_chunk_look_back=4,
                decoder_chunk_look_back=1,
            )
            yield (start + len(chunk)) / SAMPLE_RATE, answer[0]["text"].replace(" ", "")

    def text(self, samples: NDArray[np.float32]) -> str:
        return "".join(text for _, text in self.answers(samples))


def _delays(recognizer: StreamingRecognizer, clips: list[Clip]) -> list[float]:
    """Seconds from the end of a character to the end of the chunk that answers it."""
    delays = []
    for clip in track(clips, "delays", transient=True):
        heard = [
            (seconds, character) for seconds, text in recognizer.answers(clip.samples) for character in text
        ]
        _, kept = align(clip.text, "".join(character for _, character in heard))
        delays += [heard[there][0] - float(clip.times[here][1]) for here, there in kept]
    return delays


def _sentences(recognizer: StreamingRecognizer, sets: TestSets, count: int, seed: int) -> list[Row]:
    rows = []
    for voices, which, target in ((SEEN_VOICES, "seen", "<= 8"), (UNSEEN_VOICES, "unseen", "<= 16")):
        plain = sets.sentences(count, voices)
        for kind, (label, _) in CONDITIONS.items():
            name = f"{which} voices, {label}"
            tally = count_errors(recognizer, degraded(plain, kind, seed), name)
            rows.append(Row(name, "CER", tally.cer, "%", target))
            if kind == "light":
                rows.append(Row(name, "clips that begin with invented text", tally.invented_first, "clips"))
        name = f"{which} voices, light noise, pauses of {_PAUSE_BEFORE} s before and {_PAUSE_AFTER} s after"
        padded = [
            Clip(pad(clip.samples, _PAUSE_BEFORE, _PAUSE_AFTER), clip.text, clip.times + _PAUSE_BEFORE)
            for clip in plain
        ]
        tally = count_errors(recognizer, degraded(padded, "light", seed), name)
        rows.append(Row(name, "CER", tally.cer, "%", target))
        rows.append(Row(name, "clips that begin with invented text", tally.invented_first, "clips"))
    return rows


def _short_and_long(recognizer: StreamingRecognizer, sets: TestSets, seed: int) -> list[Row]:
    commands = count_errors(recognizer, sets.commands(SEEN_VOICES), "commands")
    rows = [Row("one- and two-character commands (trained on)", "CER", commands.cer, "%")]
    short = count_errors(recognizer, sets.sentences(60, SEEN_VOICES, longest=5), "short sentences")
    rows.append(Row("seen voices, held-out sentences of 3 to 5 characters", "CER", short.cer, "%"))
    for seconds, count in ((10, 24), (20, 24), (60, 8)):
        name = f"seen voices, talks of {seconds} s, light noise"
        clips = degraded(sets.talks(count, seconds, SEEN_VOICES), "light", seed)
        rows.append(Row(name, "CER", count_errors(recognizer, clips, name).cer, "%"))
    return rows


def _delay_rows(recognizer: StreamingRecognizer, sets: TestSets, seed: int) -> list[Row]:
    name = "seen voices, light noise"
    delays = 1000 * np.array(_delays(recognizer, degraded(sets.sentences(60, SEEN_VOICES), "light", seed)))
    measure = "end of a character to the end of the chunk that answers it"
    return [
        Row(name, f"{measure}, median", float(np.median(delays)), "ms"),
        Row(name, f"{measure}, 90th percentile", float(np.quantile(delays, 0.9)), "ms"),
    ]


def _other_chunks(model_dir: Path, sets: TestSets, count: int, seed: int) -> list[Row]:
    rows = []
    for chunk_size in _OTHER_CHUNKS:
        recognizer = StreamingRecognizer(model_dir, chunk_size=chunk_size)
        for voices, which in ((SEEN_VOICES, "seen"), (UNSEEN_VOICES, "unseen")):
            name = f"{which} voices, light noise, chunk_size {list(chunk_size)}"
            clips = degraded(sets.sentences(count, voices), "light", seed)
            rows.append(Row(name, "CER", count_errors(recognizer, clips, name).cer, "%"))
    return rows


def measure(model_dir: Path, clips_per_set: int = 200, seed: int = 2026) -> list[Row]:
    """All figures of the online recognizer in `model_dir` on sentences of the test part."""
    recognizer = StreamingRecognizer(model_dir)
    sets = TestSets("test", seed)
    return [
        *_sentences(recognizer, sets, clips_per_set, seed),
        *_short_and_long(recognizer, sets, seed),
        *_delay_rows(recognizer, sets, seed),
        *_other_chunks(model_dir, sets, clips_per_set // 2, seed),
        *invented(recognizer, seed),
    ]
