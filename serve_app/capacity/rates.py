"""How much a core or a GPU carries: the one table of throughput that plans are made with.

Units: ``seconds`` of audio that one core, or one GPU, works off in a second; ``sessions`` of live speech.

Figures of cores are measured with this service, on 4 shared cores with AVX512-BF16; docs/architecture.md,
docs/onnx.md and docs/speakers.md have the runs. Of GPUs there are none of our own: the figures are those
that others have published for the same models in other servers, and what is derived from them says how. A
plan is as good as they are: measure yours.
"""

from dataclasses import dataclass
from typing import Literal

from serve_app.capacity.cards import GIB

Origin = Literal["measured", "published", "derived"]
"""By us; by others; by arithmetic from a published figure, not by anybody."""

TARGET_BUSY = 0.7
"""Share of what could be carried that a plan gives out: work comes in bursts."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one core or one GPU carries, in ``unit``; and who says so."""

    value: float
    unit: Literal["seconds", "sessions"]
    origin: Origin
    source: str

    @property
    def planned(self) -> float:
        """What a plan counts on."""
        return TARGET_BUSY * self.value


INGRESS_SESSIONS = Rate(
    32, "sessions", "measured", "32 sessions in 2pass were carried by one ingress process, 64 were not"
)
INGRESS_FILES = Rate(447, "seconds", "measured", "a recording of 2 h in 16.1 s through one ingress process")
VAD_CORE = Rate(696, "seconds", "measured", "FSMN-VAD in PyTorch, fp32, one thread")
PUNCTUATION_CORE = Rate(
    440,
    "seconds",
    "measured",
    "ct-punc of full size, one core: 1770 words, of which 4 are a second of speech",
)
PARAFORMER_CORE = Rate(28, "seconds", "measured", "Paraformer-large in bf16, one core, 8 segments at once")
STREAMING_CORE = Rate(
    8.9, "sessions", "measured", "24 sessions of Paraformer-large-online on 2.7 cores, lag p95 0.43 s"
)
SPEAKER_CORE = Rate(77, "seconds", "measured", "CAM++ in bf16, one thread: 13 ms for a second of speech")

LIVE_VAD_FACTOR = 4
"""A second of live speech costs Vad what this many of a recording do: blocks of 0.2 s, not of 30. An
assumption."""

LIVE_STEP_FACTOR = 5
"""A second of live speech costs Qwen3-ASR what this many of a recording do: each step of 2 s hears up to 8
s again, and the finished sentence once more. An upper bound by the lengths."""

_A10_BYTES = 20 * GIB
_H100_BYTES = 70 * GIB
"""From which memory on a GPU counts as one of that class."""

_QWEN3_H100 = {"qwen3-asr-0.6b": 528.0, "qwen3-asr-1.7b": 439.0}
_BELOW_H100 = 4


def paraformer_gpu(memory: int) -> Rate:
    """Of a GPU with so many bytes."""
    if memory >= _A10_BYTES:
        return Rate(
            850, "seconds", "published", "FunASR's libtorch server, Paraformer-large, one A10, 5 threads"
        )
    return Rate(311, "seconds", "published", "FunASR's Triton server, Paraformer-large, one V100")


def streaming_gpu(memory: int) -> Rate:
    """Of a GPU with so many bytes."""
    source = (
        "FunASR's Triton server, Paraformer-large-online, one A10: 473 chunks of 0.6 s a second, p95 0.29 s"
    )
    if memory >= _A10_BYTES:
        return Rate(284, "sessions", "published", source)
    return Rate(142, "sessions", "derived", f"half of: {source}")


def qwen3_gpu(model: str, memory: int) -> Rate:
    """Of a GPU with so many bytes; ``model`` is a name of the catalogue.

    Raises:
        KeyError: nobody has published one.
    """
    h100 = _QWEN3_H100[model]
    source = f"{model} in vLLM, one H100, 8 requests of 8 s at once: {h100:g}"
    if memory >= _H100_BYTES:
        return Rate(h100, "seconds", "published", source)
    return Rate(h100 / _BELOW_H100, "seconds", "derived", f"a quarter of: {source}")
