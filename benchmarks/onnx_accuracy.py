"""What int8 costs in accuracy: ``python -m benchmarks.onnx_accuracy``.

Exports the starter recognizers, whole segments and live, and prints their character error rates on held-out
utterances of seen and of unseen voices, clean and in 10 dB of noise: in PyTorch in fp32, and as ONNX graphs
in fp32 and int8. Live streams run side by side, a dozen at a time. It needs espeak-ng's library.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.precision import error_rate, to_pcm
from deployments.engines.base import AsrEngine, StreamingAsrEngine
from deployments.engines.onnx_export import copy_beside, find_exporter, quantize_graph, write_graph
from deployments.engines.onnx_export_paraformer import stream_texts
from deployments.engines.paraformer_onnx import ParaformerOnnxEngine
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from deployments.engines.paraformer_streaming_onnx import ParaformerStreamingOnnxEngine
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from starter.augment import Kind
from starter.paraformer_data import Clip
from starter.paraformer_testsets import TestSets, degraded
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_SEED = 1234
_STREAMS = 12

Recognize = Callable[[list[Clip]], list[str]]


def offline(engine: AsrEngine) -> Recognize:
    """Recognizes whole clips."""
    return lambda clips: [
        "".join(word.text for word in found.words) for found in engine.transcribe([*map(to_pcm, clips)])
    ]


def live(engine: StreamingAsrEngine) -> Recognize:
    """Recognizes clips chunk by chunk."""
    return lambda clips: [
        "".join(tokens)
        for first in range(0, len(clips), _STREAMS)
        for tokens in stream_texts(engine, [to_pcm(clip) for clip in clips[first : first + _STREAMS]])
    ]


def export(source: Path, out: Path) -> tuple[Path, Path]:
    """The directories with the fp32 and with the int8 graphs."""
    fp32, int8 = out / "fp32", out / "int8"
    for directory in (fp32, int8):
        directory.mkdir(parents=True)
        copy_beside(source, directory)
    for part in find_exporter(source).parts(source):
        graph = quantize_graph(part, write_graph(part, fp32))
        graph.rename(int8 / graph.name)
    return fp32, int8


def held_out(utterances: int) -> dict[str, list[Clip]]:
    """Clips by what they are."""
    sets = TestSets("test", _SEED)
    kinds: tuple[Kind, ...] = ("clean", "noise10")
    found: dict[str, list[Clip]] = {}
    for voices, name in ((SEEN_VOICES, "seen voices"), (UNSEEN_VOICES, "unseen voices")):
        clean = sets.sentences(utterances, voices)
        found |= {f"{name}, {kind}": degraded(clean, kind, _SEED) for kind in kinds}
    return found


def main(
    models: Annotated[Path, typer.Option(help="Directory of the starter models.")] = Path("models/starter"),
    utterances: Annotated[int, typer.Option(help="Utterances of each test set.")] = 200,
) -> None:
    """Compare the forms of both recognizers."""
    torch.manual_seed(0)
    sets = held_out(utterances)
    with TemporaryDirectory() as name:
        whole, streaming = models / "paraformer", models / "paraformer-streaming"
        whole_fp32, whole_int8 = export(whole, Path(name) / "whole")
        live_fp32, live_int8 = export(streaming, Path(name) / "live")
        forms = {
            "whole": (
                offline(ParaformerTorchEngine(whole, threads=1, precision="fp32")),
                offline(ParaformerOnnxEngine(whole_fp32, threads=1)),
                offline(ParaformerOnnxEngine(whole_int8, threads=1)),
            ),
            "live": (
                live(ParaformerStreamingEngine(streaming, threads=1, precision="fp32")),
                live(ParaformerStreamingOnnxEngine(live_fp32, threads=1)),
                live(ParaformerStreamingOnnxEngine(live_int8, threads=1)),
            ),
        }
        table = Table("", "test set", "CER PyTorch fp32 %", "CER ONNX fp32 %", "CER ONNX int8 %")
        for form, recognizers in forms.items():
            for kind, clips in sets.items():
                rates = [f"{error_rate(clips, recognize(clips)):.2f}" for recognize in recognizers]
                table.add_row(form, kind, *rates)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
