"""How well hotwords bite, and what they spoil: ``python -m benchmarks.hotwords``.

Sentences with rare names, which were never trained on, are spoken by espeak-ng's library and recognized by a
model that listens for hotwords, with lists of several lengths and weights: how many names are written as they
are spelled (recall), and the character error rate of everything else. Then sentences without names get lists
of names, none of which was spoken: how many of them hold one afterwards (false insertions), and how many were
changed at all. Names, sentences and voices are those of :mod:`starter.seaco_evaluation`.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import soundfile
import typer
from rich.console import Console
from rich.table import Table

from deployments.engines.base import SAMPLE_RATE, Hints, Hotword
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.precision import Precision
from starter.augment import KINDS, Kind
from starter.seaco_evaluation import Clip, TestNames, inserted, score, transcribe
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

MODEL = Path(__file__).parent.parent / "models" / "starter" / "paraformer-hotwords"
VOICES: dict[str, tuple[Voice, ...]] = {"seen": SEEN_VOICES, "unseen": UNSEEN_VOICES}
_OTHERS = (0, 20, 49, 99, 299)
_WEIGHTS = (1.0, 5.0, 20.0, 50.0, 100.0)
_MANY = 100
_COMPRESSION = 0.8


def recall_table(engine: ParaformerTorchEngine, tests: TestNames, count: int, kind: Kind) -> Table:
    """Names written right, by voices and by the number of other hotwords in the list."""
    table = Table("voices", "list", "names", "recall", "CER of the rest", title=f"Rare names, {kind}")
    for label, voices in VOICES.items():
        clips = tests.with_names(count, voices, kind)
        settings: list[tuple[str, list[list[str]]]] = [("none", [[] for _ in clips])]
        settings += [
            (f"its names and {others}", [clip.names + tests.others(clip, others) for clip in clips])
            for others in _OTHERS
        ]
        for name, lists in settings:
            found = score(clips, transcribe(engine, clips, lists))
            rates = f"{found.recall:.1f} %", f"{found.error_rate:.2f} %"
            table.add_row(label, name, str(found.names), *rates)
    return table


def insertion_table(engine: ParaformerTorchEngine, tests: TestNames, count: int, kind: Kind) -> Table:
    """What lists of names do to sentences in which none of them was spoken."""
    title = f"Nothing of the list spoken, {_MANY} hotwords, {kind}"
    table = Table("sentences", "voices", "clips", "false insertion", "changed at all", title=title)
    for label, voices in VOICES.items():
        for what, clips in (
            ("without names", tests.plain(count, voices, kind)),
            ("with other names", tests.with_names(count, voices, kind)),
        ):
            lists = [tests.others(clip, _MANY) for clip in clips]
            plain = transcribe(engine, clips, [[] for _ in clips])
            hold, differ = inserted(transcribe(engine, clips, lists), plain, lists)
            shares = (f"{100 * found / count:.1f} %" for found in (hold, differ))
            table.add_row(what, label, str(count), *shares)
    return table


def weight_table(engine: ParaformerTorchEngine, tests: TestNames, count: int, kind: Kind) -> Table:
    """What weights do, to names that were spoken and to sentences without them."""
    named, plain = (make(count, UNSEEN_VOICES, kind) for make in (tests.with_names, tests.plain))
    lists = [clip.names + tests.others(clip, 20) for clip in named]
    others = [tests.others(clip, _MANY) for clip in plain]
    before = transcribe(engine, plain, [[] for _ in plain])
    table = Table("weight", "recall", "CER of the rest", "changed without a name", title="Weights")
    for weight in _WEIGHTS:
        found = score(named, _weighted(engine, named, lists, weight))
        _, differ = inserted(_weighted(engine, plain, others, weight), before, others)
        rates = (found.recall, found.error_rate, 100 * differ / count)
        table.add_row(f"{weight:g}", *(f"{rate:.1f} %" for rate in rates))
    return table


def cost_table(engine: ParaformerTorchEngine, tests: TestNames, count: int, kind: Kind) -> Table:
    """Time of a call of 16 segments."""
    clips = tests.with_names(16, UNSEEN_VOICES, kind)
    table = Table("hotwords", "first call", "later calls", title="Milliseconds for 16 segments")
    for size in (0, *_OTHERS[1:]):
        lists = [tests.others(clips[0], size)] * len(clips)
        took = []
        for _ in range(1 + max(3, count // 50)):
            begun = time.perf_counter()
            transcribe(engine, clips, lists)
            took.append(1000 * (time.perf_counter() - begun))
        table.add_row(str(size), f"{took[0]:.0f}", f"{min(took[1:]):.0f}")
    return table


def _weighted(
    engine: ParaformerTorchEngine, clips: Sequence[Clip], lists: Sequence[Sequence[str]], weight: float
) -> list[str]:
    hints = [Hints(tuple(Hotword(name, weight) for name in names)) for names in lists]
    results = engine.transcribe([clip.samples for clip in clips], hints)
    return ["".join(word.text for word in result.words) for result in results]


def write_clips(directory: Path, tests: TestNames, named: int = 12, plain: int = 6) -> None:
    """Write clips of unseen voices, Ogg Vorbis, and ``clips.json``: what is spoken in each of them, and a
    hundred names that are spoken in none. ``tests/test_hotword_recall.py`` has some.
    """
    directory.mkdir(parents=True, exist_ok=True)
    clips = tests.with_names(named, UNSEEN_VOICES) + tests.plain(plain, UNSEEN_VOICES)
    described = []
    for index, clip in enumerate(clips):
        path = directory / f"{index:02d}.ogg"
        with soundfile.SoundFile(
            path, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG", compression_level=_COMPRESSION
        ) as file:
            file.write(clip.samples)
        described.append({"file": path.name, "text": clip.text, "names": clip.names})
    others = [
        name for name in tests.others(clips[0], 2 * _MANY) if all(name not in clip.text for clip in clips)
    ]
    written = {"clips": described, "others": others[:_MANY]}
    text = json.dumps(written, ensure_ascii=False, indent=1)
    (directory / "clips.json").write_text(text + "\n", "utf-8")


def main(
    model: Annotated[Path, typer.Option(help="Model directory of a SeacoParaformer.")] = MODEL,
    count: Annotated[int, typer.Option(help="Sentences of each kind.", min=1)] = 300,
    kind: Annotated[str, typer.Option(help=f"Sound: {', '.join(KINDS)}.")] = "light",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    threads: Annotated[int, typer.Option(min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Fixes names, sentences, voices and noise.")] = 4321,
    clips: Annotated[Path | None, typer.Option(help="Write two dozen clips there, print nothing.")] = None,
) -> None:
    """Print the tables."""
    if clips is not None:
        write_clips(clips, TestNames(seed))
        return
    sound = next((known for known in KINDS if known == kind), None)
    if sound is None:
        raise typer.BadParameter(f"there are {', '.join(KINDS)}, not {kind}")
    chosen: Precision = "bf16" if precision == "bf16" else "fp32"
    engine = ParaformerTorchEngine(model, threads=threads, precision=chosen)
    console = Console()
    for table in (recall_table, insertion_table, weight_table, cost_table):
        console.print(table(engine, TestNames(seed), count, sound))


if __name__ == "__main__":
    typer.run(main)
