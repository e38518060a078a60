"""Hotwords bite: rare names by voices and in sentences of no training are written as they are spelled.

A small edition of ``python -m benchmarks.hotwords``, whose clips these are (``--clips``).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.hotwords import main, write_clips
from deployments.engines.base import AsrEngine, EngineOptions, Hints, Hotword, Pcm
from deployments.engines.paraformer import load
from starter.registry import MODELS_DIR
from starter.seaco_evaluation import TestNames
from tests.espeak import needs_espeak

CLIPS = Path(__file__).parent / "hotword_clips"
MODEL = MODELS_DIR / "paraformer-hotwords"


@dataclass(frozen=True)
class Clip:
    samples: Pcm
    text: str
    names: list[str]


@dataclass(frozen=True)
class Clips:
    """``others``: a hundred names that are spoken in none of them."""

    named: list[Clip]
    plain: list[Clip]
    others: list[str]


@pytest.fixture(scope="module")
def clips() -> Clips:
    described = json.loads((CLIPS / "clips.json").read_text("utf-8"))
    read: list[Clip] = []
    for entry in described["clips"]:
        samples, _ = soundfile.read(CLIPS / entry["file"], dtype="int16")
        read.append(Clip(np.asarray(samples, np.int16), entry["text"], entry["names"]))
    named = [clip for clip in read if clip.names]
    return Clips(named, [clip for clip in read if not clip.names], described["others"])


@pytest.fixture(scope="module")
def engine() -> AsrEngine:
    return load(MODEL, EngineOptions(threads=1, precision="fp32"))


def transcribe(engine: AsrEngine, clips: list[Clip], lists: list[list[str]]) -> list[str]:
    hints = [Hints(tuple(map(Hotword, names))) for names in lists]
    results = engine.transcribe([clip.samples for clip in clips], hints)
    assert [list(result.applied) for result in results] == lists
    return ["".join(word.text for word in result.words) for result in results]


def recall(clips: list[Clip], texts: list[str]) -> float:
    pairs = [(name, text) for clip, text in zip(clips, texts, strict=True) for name in clip.names]
    return sum(name in text for name, text in pairs) / len(pairs)


def test_names_are_written_as_they_are_spelled(engine: AsrEngine, clips: Clips) -> None:
    none: list[list[str]] = [[] for _ in clips.named]
    without = recall(clips.named, transcribe(engine, clips.named, none))
    few = [[*clip.names, *clips.others[:20]] for clip in clips.named]
    found = recall(clips.named, transcribe(engine, clips.named, few))
    assert without <= 0.4
    assert found >= max(0.7, 2 * without)


def test_a_long_list_costs_few_of_them(engine: AsrEngine, clips: Clips) -> None:
    """More than fifty hotwords are first chosen among by attention."""
    lists = [[*clips.others, *clip.names] for clip in clips.named]
    assert recall(clips.named, transcribe(engine, clips.named, lists)) >= 0.5


def test_hotwords_that_nobody_said_change_nothing(engine: AsrEngine, clips: Clips) -> None:
    lists = [clips.others for _ in clips.plain]
    plain = transcribe(engine, clips.plain, [[] for _ in clips.plain])
    assert transcribe(engine, clips.plain, lists) == plain


def test_without_hotwords_it_is_the_starter_recognizer(engine: AsrEngine, clips: Clips) -> None:
    base = load(MODELS_DIR / "paraformer", EngineOptions(threads=1, precision="fp32", backend="torch"))
    samples = [clip.samples for clip in clips.named + clips.plain]
    assert engine.transcribe(samples) == base.transcribe(samples)


def test_by_its_own_rule_funasr_writes_the_same(clips: Clips, tmp_path: Path) -> None:
    """FunASR's SeacoParaformer from the same files, whose rule is to decide token by token."""
    from funasr import AutoModel

    for path in MODEL.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = (tmp_path / "config.yaml").read_text("utf-8")
    assert "whole_hotwords: true" in config
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").write_text(config.replace("whole_hotwords: true", "whole_hotwords: false"))
    engine = load(tmp_path, EngineOptions(threads=1, precision="fp32"))
    model = AutoModel(
        model=str(tmp_path), device="cpu", ncpu=1, disable_update=True, disable_pbar=True, log_level="ERROR"
    )
    lists = [[*clip.names, *clips.others[:10]] for clip in clips.named]
    texts = transcribe(engine, clips.named, lists)
    for clip, names, text in zip(clips.named, lists, texts, strict=True):
        waveform = clip.samples.astype(np.float32) / (1 << 15)
        answer = model.generate(input=waveform, hotword=" ".join(names))[0]["text"]
        assert answer.replace(" ", "") == text


@needs_espeak
def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(count=2, kind="clean", threads=1)
    printed = capsys.readouterr().out
    assert "Rare names, clean" in printed
    assert "Nothing of the list spoken, 100 hotwords" in printed
    assert "Weights" in printed
    assert "Milliseconds for 16 segments" in printed


@needs_espeak
def test_the_clips_are_those_that_the_benchmark_writes(tmp_path: Path) -> None:
    write_clips(tmp_path, TestNames(77))
    assert (tmp_path / "clips.json").read_text("utf-8") == (CLIPS / "clips.json").read_text("utf-8")
    assert len(list(tmp_path.glob("*.ogg"))) == len(list(CLIPS.glob("*.ogg")))
