"""What networks of full size work with beside their weights: ``python -m benchmarks.working_memory``.

Counts the bytes of live tensors, from the events of PyTorch's own allocator, and prints the most of one
call, in MiB. On a GPU the same tensors are allocated; what libraries there take for themselves comes on
top. These figures are in ``serve_app/capacity/needs.py``, and docs/sizing.md tells what they are for.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.profiler import ProfilerActivity, profile

from deployments.engines.base import SAMPLE_RATE, Pcm, Stretch, VadBlock
from deployments.engines.precision import Precision

Result = TypeVar("Result")

_MIB = 2**20
_WINDOW, _STEP = 3 * SAMPLE_RATE // 2, 3 * SAMPLE_RATE // 4


def peak(call: Callable[[], Result]) -> tuple[float, Result]:
    """Most MiB of tensors that were alive at one time in ``call``, beside those from before it; its
    result."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    results: Any = profiler.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most / _MIB, result


def noise(seconds: float) -> Pcm:
    generator = np.random.default_rng(20_26)
    return (3000 * generator.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.int16)


def measure(models: Path, precision: Precision) -> Iterator[tuple[str, float]]:
    """What was called, and what it took."""
    from deployments.engines.paraformer_torch import ParaformerTorchEngine
    from deployments.engines.punctuation_ct import CtPunctuationEngine
    from deployments.engines.speaker_torch import SpeakerTorchEngine
    from deployments.engines.vad_fsmn import FsmnVadEngine

    recognizer = ParaformerTorchEngine(models / "paraformer", threads=1, precision=precision)
    recognizer.transcribe([noise(2)])
    for lengths in ([20.0] * 3, [20.0] * 6, [20.0] * 12, [90.0, 90.0, 60.0]):
        segments = [noise(length) for length in lengths]
        what = f"Paraformer {precision}, {len(lengths)} segments of {sum(lengths):g} s"
        yield what, peak(partial(recognizer.transcribe, segments))[0]
    yield from _streams(models, precision)
    speakers = SpeakerTorchEngine(models / "campplus", threads=1, precision=precision)
    for seconds in (15, 60, 120):
        count = seconds * SAMPLE_RATE // _WINDOW
        windows = tuple((at * _STEP, at * _STEP + _WINDOW) for at in range(count))
        stretch = Stretch(noise(windows[-1][1] / SAMPLE_RATE), windows)
        what = f"CAM++ {precision}, {count} windows"
        yield what, peak(partial(speakers.embed_stretches, [stretch]))[0]
    marks = CtPunctuationEngine(models / "ct-punc", threads=1)
    yield "CT-Transformer, 2000 words", peak(partial(marks.punctuate, [list("你好我们") * 50] * 10))[0]
    vad = FsmnVadEngine(models / "fsmn-vad", threads=1)
    for count, length in ((8, 30.0), (64, 0.2)):
        blocks = [VadBlock(noise(length), None, False)] * count
        yield f"FSMN-VAD, {count} blocks of {length:g} s", peak(partial(vad.detect, blocks))[0]


def _streams(models: Path, precision: Precision, count: int = 16) -> Iterator[tuple[str, float]]:
    """Chunks of streams: the store of what they remember grows with the first ones."""
    from deployments.engines.base import StreamChunk, StreamState
    from deployments.engines.paraformer_streaming import ParaformerStreamingEngine

    engine = ParaformerStreamingEngine(models / "paraformer-streaming", threads=1, precision=precision)
    states: list[StreamState | None] = [None] * count
    for number in range(1, 7):
        chunks = [StreamChunk(noise(0.6), state, False) for state in states]
        taken, results = peak(partial(engine.step, chunks))
        states = [result.state for result in results]
        yield f"Paraformer live {precision}, {count} streams, chunk {number}", taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", type=Path, default=Path("build/full-size"), help="written by benchmarks.full_size"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    for what, taken in measure(arguments.models, arguments.precision):
        print(f"{what:<48} {taken:7.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
