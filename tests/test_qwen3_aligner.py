"""The aligner of Qwen3-ASR finds what the package's own finds, also where only transformers 5 is installed.

These tests run in both environments: that of the qwen-asr package, and that of vLLM.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import AlignmentItem, Times
from deployments.engines.model_files import ModelFilesError
from deployments.engines.qwen3_aligner import Qwen3AlignerEngine
from deployments.engines.qwen3_alignment import cleaned
from tests.qwen3_tiny import STARTER, noise, write_tiny
from tests.vllm.cases import sample

with_package = pytest.mark.skipif(not find_spec("qwen_asr"), reason="the qwen-asr package is not installed")

ITEMS = [
    AlignmentItem(noise(3.0, 1), ("Hello", "world", "it's", "an", "e-mail", "of", "“2.5”"), "English"),
    AlignmentItem(noise(7.9, 2), ("今", "天", "是", "好", "日", "子", "iPhone", "啊"), "Chinese"),
    AlignmentItem(noise(0.7, 3), ("Ja", "gut"), "German"),
    AlignmentItem(noise(6.0, 4), ("Qu’est-ce", "que", "c’est", "—", "ça"), "French"),
    AlignmentItem(noise(4.0, 5), ("один", "два", "три", "четыре", "пять", "шесть", "семь"), "Russian"),
]
"""Of 8 s at most, since the attention of the package's own does not keep to windows on a CPU."""


def aligner(model_dir: Path) -> Qwen3AlignerEngine:
    return Qwen3AlignerEngine(model_dir, threads=1, precision="fp32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("qwen3") / "aligner", aligner=True, seed=5)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Qwen3AlignerEngine:
    return aligner(tiny)


@pytest.fixture(scope="module")
def starter() -> Qwen3AlignerEngine:
    return aligner(STARTER / "qwen3-forced-aligner")


EXPECTED: list[Times] = [
    ((880, 1200), (1200, 1200), (1200, 1840), (1840, 1840), (1973, 2106), (2240, 2373), (2506, 2640)),
    (
        (960, 960),
        (960, 960),
        (1200, 1200),
        (1200, 1200),
        (1200, 2080),
        (2080, 2640),
        (2640, 2640),
        (2640, 2640),
    ),
    ((700, 700), (700, 700)),
    ((960, 960), (2640, 2640), (2640, 2640), (2640, 2640), (2640, 2640)),
    ((720, 720), (720, 720), (720, 720), (720, 720), (720, 720), (720, 720), (800, 2640)),
]
"""What the package's aligner finds for ``ITEMS`` on the tiny checkpoint, for where it is not installed."""


def test_times_are_those_that_the_package_was_seen_to_find(engine: Qwen3AlignerEngine) -> None:
    assert engine.align(ITEMS) == EXPECTED


def packages_own(model_dir: Path, item: AlignmentItem) -> list[tuple[str, int, int]]:
    from qwen_asr import Qwen3ForcedAligner

    package = Qwen3ForcedAligner.from_pretrained(str(model_dir))
    audio = (item.samples.astype(np.float32) / 32768, SAMPLE_RATE)
    found = package.align(audio, " ".join(item.words), item.language)[0]
    end = 1000 * len(item.samples) // SAMPLE_RATE
    return [
        (unit.text, *(min(end, round(1000 * at)) for at in (unit.start_time, unit.end_time)))
        for unit in found
    ]


@with_package
@pytest.mark.parametrize("number", range(len(ITEMS)))
def test_times_are_those_of_the_package(engine: Qwen3AlignerEngine, tiny: Path, number: int) -> None:
    item = ITEMS[number]
    theirs = packages_own(tiny, item)
    spoken = [
        (cleaned(word), *times)
        for word, times in zip(item.words, engine.align([item])[0], strict=True)
        if cleaned(word)
    ]
    assert spoken == theirs


@with_package
def test_the_starter_aligner_finds_what_the_package_finds(starter: Qwen3AlignerEngine) -> None:
    item = AlignmentItem(sample("travel"), SENTENCES["travel"], "Chinese")
    theirs = [(begin, end) for _, begin, end in packages_own(STARTER / "qwen3-forced-aligner", item)]
    assert list(starter.align([item])[0]) == theirs


TRANSCRIPTS = json.loads((Path(__file__).parent.parent / "samples" / "transcripts.json").read_text("utf-8"))
SENTENCES = {
    name.removesuffix(".wav"): tuple(char for char in text if char.isalnum())
    for name, text in TRANSCRIPTS.items()
}


def test_words_are_found_where_they_were_said(starter: Qwen3AlignerEngine) -> None:
    """Each of two recordings, a pause of 2 s between them, lies where it lies."""
    first, second = sample("home"), sample("travel")
    audio = np.concatenate([first, np.zeros(2 * SAMPLE_RATE, np.int16), second])
    words = SENTENCES["home"] + SENTENCES["travel"]
    times = starter.align([AlignmentItem(audio, words, "Chinese")])[0]
    boundary, again = milliseconds(first), milliseconds(first) + 2000
    early, late = times[: len(SENTENCES["home"])], times[len(SENTENCES["home"]) :]
    assert max(end for _, end in early) <= boundary + 400
    assert min(begin for begin, _ in late) >= again - 400
    alone = starter.align([AlignmentItem(second, SENTENCES["travel"], "Chinese")])[0]
    shifts = [
        abs(begin - again - begin_alone) for (begin, _), (begin_alone, _) in zip(late, alone, strict=True)
    ]
    assert np.median(shifts) <= 160


def milliseconds(samples: Pcm) -> int:
    return 1000 * len(samples) // SAMPLE_RATE


def test_items_do_not_depend_on_each_other(engine: Qwen3AlignerEngine) -> None:
    items = [*ITEMS, AlignmentItem(noise(100.0, 6), ("eins", "zwei") * 150, "German"), *ITEMS]
    together = engine.align(items)
    assert together[: len(ITEMS)] == together[-len(ITEMS) :] == EXPECTED
    assert together == [engine.align([item])[0] for item in items]
    for item, times in zip(items, together, strict=True):
        flat = [moment for span in times for moment in span]
        assert len(times) == len(item.words)
        assert flat == sorted(flat)
        assert flat[-1] <= milliseconds(item.samples)


def test_three_minutes_are_the_most(engine: Qwen3AlignerEngine) -> None:
    assert engine.align([]) == []
    assert len(engine.align([AlignmentItem(noise(180.0), ("hello",) * 600, "English")])[0]) == 600
    with pytest.raises(ValueError, match="at most 180 s"):
        engine.align([ITEMS[0], AlignmentItem(noise(180.1), ("hello",), "English")])


def test_what_cannot_be_aligned_is_refused_or_takes_no_time(engine: Qwen3AlignerEngine) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        engine.align([AlignmentItem(noise(1.0)[:0], ("hello",), "English")])
    with pytest.raises(ValueError, match="knows no 'Thai'"):
        engine.align([AlignmentItem(noise(1.0), ("สวัสดี",), "Thai")])
    assert engine.align([AlignmentItem(noise(1.0), (), "English")]) == [()]
    assert engine.align([AlignmentItem(noise(1.0), ("—", "…"), "English")]) == [((0, 0), (0, 0))]
    assert len(engine.align([AlignmentItem(noise(0.1), ("hello", "…"), "English")])[0]) == 2


def test_directories_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="does not describe"):
        aligner(write_tiny(tmp_path / "asr"))
    incomplete = write_tiny(tmp_path / "incomplete", aligner=True)
    config = json.loads((incomplete / "config.json").read_text("utf-8"))
    config["thinker_config"]["text_config"]["num_hidden_layers"] += 1
    (incomplete / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelFilesError, match="weights"):
        aligner(incomplete)
    (incomplete / "model.safetensors").unlink()
    with pytest.raises(ModelFilesError, match="cannot be loaded"):
        aligner(incomplete)
    with pytest.raises(ValueError, match="threads"):
        Qwen3AlignerEngine(tiny, threads=0)


def test_bf16_finds_times_too(tiny: Path) -> None:
    times = Qwen3AlignerEngine(tiny, threads=1, precision="bf16").align(ITEMS)
    assert [len(found) for found in times] == [len(item.words) for item in ITEMS]
