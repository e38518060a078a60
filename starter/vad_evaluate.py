"""Measures a voice activity model through funasr.AutoModel: frames, segment boundaries, false alarms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from funasr import AutoModel
from numpy.typing import NDArray

from starter import noise
from starter.augment import KINDS, SAMPLE_RATE, Kind, Samples, degrade
from starter.registry import Row
from starter.vad_data import Clip, ClipMaker, Spans, frame_labels
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

END_SILENCE_MS = 800

_SEED = 20_001
_CLIPS_A_KIND = 40
_CLIP_SECONDS = 15.0
_PAUSES = (1.3, 3.0)
_NOISE_CLIPS_A_KIND = 30
_NOISE_SECONDS = 10.0
_SPEECH_MARGIN = 0.6


@dataclass(slots=True)
class _Tally:
    """Counts over a test set; errors in milliseconds, found minus true."""

    frames: int = 0
    right: int = 0
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    utterances: int = 0
    unmatched: int = 0

    def add(self, other: _Tally) -> None:
        self.frames += other.frames
        self.right += other.right
        self.begins += other.begins
        self.ends += other.ends
        self.utterances += other.utterances
        self.unmatched += other.unmatched


class Detector:
    """A model directory as a service uses it."""

    def __init__(self, model_dir: Path) -> None:
        self._model = AutoModel(
            model=str(model_dir.resolve()), disable_update=True, disable_pbar=True, disable_log=True, ncpu=1
        )

    def segments(self, samples: Samples) -> Spans:
        """Speech in seconds, by generate() with the end silence fixed at 800 ms."""
        result = self._model.generate(input=samples, max_end_silence_time=END_SILENCE_MS)
        return [(begin / 1000, end / 1000) for begin, end in result[0]["value"]]

    def speech_frames(self, samples: Samples) -> NDArray[np.bool_]:
        """FunASR's decision for each 10 ms frame, shape (frames,): p(speech) >= p(silence) + 0.6."""
        frontend: Any = self._model.kwargs["frontend"]
        audio = torch.from_numpy(np.ascontiguousarray(samples))[None]
        feats, _ = frontend(audio, torch.tensor([audio.shape[1]]), is_final=True, cache={})
        with torch.no_grad():
            silence = self._model.model.encoder(feats, cache={})[0, :, 0].numpy()
        return np.asarray(1 - silence >= silence + _SPEECH_MARGIN)


def measure(model_dir: Path) -> list[Row]:
    """The whole table, on held-out sentences."""
    detector = Detector(model_dir)
    rows: list[Row] = []
    for label, voices in (("unseen voices", UNSEEN_VOICES), ("seen voices", SEEN_VOICES)):
        total = _Tally()
        for kind in KINDS:
            tally = _speech_tally(detector, voices, kind)
            total.add(tally)
            rows.append(Row(f"{label}, {kind}", "frame accuracy", _accuracy(tally), "%"))
            rows.append(Row(f"{label}, {kind}", "boundary error p90", _p90(tally), "ms"))
        rows += _summary(label, total)
    return rows + _noise_rows(detector)


def _summary(label: str, total: _Tally) -> list[Row]:
    name = f"{label}, all"
    return [
        Row(name, "frame accuracy", _accuracy(total), "%", ">= 97"),
        Row(name, "boundary error p90", _p90(total), "ms", "<= 200"),
        Row(name, "begin error, median", float(np.median(total.begins)), "ms"),
        Row(name, "end error, median", float(np.median(total.ends)), "ms"),
        Row(name, "utterances missed, split or merged", 100 * total.unmatched / total.utterances, "%"),
    ]


def _speech_tally(detector: Detector, voices: tuple[Voice, ...], kind: Kind) -> _Tally:
    tally = _Tally()
    rng = np.random.default_rng((_SEED, KINDS.index(kind)))
    for clip in _test_clips(voices, kind):
        samples = degrade(clip.samples, kind, rng)
        found = detector.speech_frames(samples)
        tally.frames += len(found)
        tally.right += int((found == frame_labels(clip.spans, len(found))).sum())
        _match(clip.utterances, detector.segments(samples), tally)
    return tally


def _test_clips(voices: tuple[Voice, ...], kind: Kind) -> Iterator[Clip]:
    maker = ClipMaker(_SEED + KINDS.index(kind), "test", voices)
    for _ in range(_CLIPS_A_KIND):
        yield maker.clean_clip(_CLIP_SECONDS, _PAUSES)


def _match(truth: Spans, found: Spans, tally: _Tally) -> None:
    """Pairs utterances and segments that overlap each other only; anything else counts as unmatched."""
    tally.utterances += len(truth)
    for begin, end in truth:
        overlapping = [span for span in found if span[0] < end and span[1] > begin]
        alone = (
            len(overlapping) == 1
            and sum(other[0] < overlapping[0][1] and other[1] > overlapping[0][0] for other in truth) == 1
        )
        if not alone:
            tally.unmatched += 1
            continue
        tally.begins.append(1000 * (overlapping[0][0] - begin))
        tally.ends.append(1000 * (overlapping[0][1] - end))


def _noise_rows(detector: Detector) -> list[Row]:
    rows: list[Row] = []
    alarm = length = 0.0
    for index, (kind, make) in enumerate((*noise.KINDS.items(), ("low tones", noise.low_tones))):
        rng = np.random.default_rng((_SEED, 1, index))
        kind_alarm = 0.0
        for _ in range(_NOISE_CLIPS_A_KIND):
            samples = make(round(_NOISE_SECONDS * SAMPLE_RATE), rng)
            kind_alarm += sum(end - begin for begin, end in detector.segments(samples))
        kind_length = _NOISE_CLIPS_A_KIND * _NOISE_SECONDS
        rows.append(Row(f"noise only, {kind}", "time taken for speech", 100 * kind_alarm / kind_length, "%"))
        alarm, length = alarm + kind_alarm, length + kind_length
    return [*rows, Row("noise only, all", "time taken for speech", 100 * alarm / length, "%", "<= 2")]


def _accuracy(tally: _Tally) -> float:
    return 100 * tally.right / tally.frames


def _p90(tally: _Tally) -> float:
    return float(np.percentile(np.abs(tally.begins + tally.ends), 90))
