"""The benchmark of ONNX Runtime: every contender recognizes the same, and the table says how fast."""

import shutil
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.engines import read_wav
from benchmarks.onnx import BASELINE, DIRECT, NAMES, OURS, Figures, exported, make, report, segments
from tests.onnx_models import ROOT, STARTER


def test_all_contenders_hear_the_same(tmp_path: Path) -> None:
    source = Path(shutil.copytree(STARTER / "paraformer", tmp_path / "models" / "paraformer"))
    int8, fp32 = exported(source, tmp_path / "graphs")
    written = (int8 / "model_quant.onnx").stat().st_mtime_ns
    samples = [read_wav(path) for path in sorted((ROOT / "samples").glob("*.wav"))][1:3]
    for name in NAMES:
        if name == DIRECT and not find_spec("funasr_onnx"):
            continue
        recognize = make(name, source, int8, fp32, threads=1)
        assert recognize(samples) == pytest.approx(sum(recognize([one]) for one in samples), abs=1), name
        assert recognize(samples) == pytest.approx(53, abs=2), name
    assert exported(source, tmp_path / "graphs") == (int8, fp32)
    assert (int8 / "model_quant.onnx").stat().st_mtime_ns == written


def test_table_compares_rounds_of_the_same_load() -> None:
    seconds = sum(map(len, segments(8))) / 16_000
    slow = Figures({1: [4.0, 40.0], 8: [2.0, 20.0]}, {1: [seconds, seconds], 8: [4.0, 4.0]}, 10, 900_000_000)
    quick = Figures({1: [2.0, 20.0], 8: [0.5, 5.0]}, {1: [2.0, 2.0], 8: [1.0, 1.0]}, 10, 300_000_000)
    printed = StringIO()
    Console(file=printed, width=160).print(report({BASELINE: slow, OURS: quick}, threads=2))
    rows = {line.split("│")[1].strip(): line for line in printed.getvalue().splitlines() if "│" in line}
    cells = [cell.strip() for cell in rows[OURS].split("│")[2:-1]]
    assert (cells[1], cells[4], cells[6]) == ("2.00", "4.00", "300")
    assert rows[BASELINE].split("│")[4].strip() == "1.0x"
