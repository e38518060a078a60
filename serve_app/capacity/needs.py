"""How much memory of a GPU a replica of each deployment needs.

Four parts: weights, what a network works with (activations, and what libraries take for themselves), what
is kept (the key-value cache of Qwen3-ASR, the streams of ParaformerStreaming), and CUDA's own part of each
process.

Where figures come from: weights from files or the catalogue; the key-value cache and streams from the
shapes in the models' published configurations; activations of FunASR's models are measured, as the peak of
live tensors at full size (``python -m benchmarks.working_memory``, on a CPU, where PyTorch allocates the
same tensors); CUDA's part, and what vLLM and the aligner work with, are estimates from documentation.
Nothing was measured on a GPU.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.engines.gpu_limit import CONTEXT_BYTES
from serve_app.capacity.cards import GIB, gib
from serve_app.capacity.weights import Model
from serve_app.models import ServedModel, ServedModels, has_aligner
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model

MIB = 2**20

_BF16, _FP32 = 2, 4
"""Bytes of a number."""

LIBRARIES_BYTES = 128 * MIB
"""Workspaces of cuBLAS and cuDNN, and blocks that PyTorch's allocator has and cannot use. Estimated."""

_SPARE = 2
"""Activations count twice what was measured, for kernels of a GPU may need copies where those of a CPU do
not."""

RECOGNIZER_BYTES = 60 * MIB
"""Measured: 56 MiB in fp32, 43 in bf16, whatever the batch: engines take 2048 rows (two minutes) at a
time."""

HOTWORDS_BYTES = 120 * MIB
"""More for models that listen for hotwords, or are of another family. Estimated."""

VAD_BYTES = 7 * MIB
"""Measured: 8 blocks of 30 s, or 64 of 0.2 s."""

SPEAKER_BYTES = 40 * MIB
"""Measured: 40 windows at a time, however many are in a batch."""

WORD_BYTES = MIB // 75
"""Measured: 26 MiB for 2000 words of a batch of the Punctuation."""

CHUNKS_BYTES = 40 * MIB
"""Measured: 7 MiB for the chunks of 16 streams; at most 80 are computed at a time."""

STREAM_ROWS = 60
"""Of keys and values in each block of the encoder, for a stream: the 40 of four chunks that are looked
back to, and those of a step that is under way."""

STREAM_GROWTH = 2.5
"""The store of streams grows by half, and while it does, the old one is there as well."""

ALIGNER_BYTES = GIB
"""8192 positions at a time, of 180 s of audio at most. Estimated."""

VLLM_BYTES, VLLM_LARGE_BYTES = 3 * GIB // 2, 2 * GIB
"""A step of 2048 tokens, features, the sampler and CUDA graphs, of the 0.6B and of the 1.7B. Estimated."""

_LARGE_BYTES = 2.5e9
_PACKAGE_CACHE_BYTES = 4 * GIB
"""What the qwen-asr package keeps if QWEN3_MEMORY is not set."""

_TEXT_LAYERS = {"num_hidden_layers": 28, "num_key_value_heads": 8, "head_dim": 128}
_ENCODER = {"num_blocks": 50, "output_size": 512}
"""Of both published sizes of Qwen3-ASR, and of Paraformer-large, where no file tells."""


@dataclass(frozen=True, slots=True)
class Part:
    """``size`` bytes, for what."""

    what: str
    size: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a replica needs, in bytes. ``fault`` is what cannot work whatever its share is."""

    parts: tuple[Part, ...]
    fault: str | None = None

    @property
    def total(self) -> int:
        return sum(part.size for part in self.parts)

    def __str__(self) -> str:
        """The sum, written out, in GB."""
        listed = " + ".join(f"{part.what} {gib(part.size)}" for part in self.parts)
        return f"{listed} = {gib(self.total)} GB"


def needs(
    settings: Settings, configs: Mapping[str, Mapping[str, Any]], *, bf16: bool = True
) -> dict[str, Need]:
    """By the name of each deployment that has a model: what a replica of it needs on a GPU.

    Args:
        settings: with models by name: see :func:`serve_app.enabled_models.choose_models`.
        configs: ``user_config`` of deployments that have some, by name.
        bf16: whether the GPU multiplies it, so that ``PRECISION=auto`` is bf16; else PyTorch computes in
            fp32, and vLLM in fp16.

    Raises:
        CatalogueError: a file of models is wrong.
        ModelNotFound: a recognizer of the settings is not known.
    """
    width = _BF16 if settings.precision == "bf16" or (settings.precision == "auto" and bf16) else _FP32
    return dict(_needs(settings, configs, width))


def _needs(
    settings: Settings, configs: Mapping[str, Mapping[str, Any]], width: int
) -> Iterator[tuple[str, Need]]:
    """``width``: bytes of a number in PyTorch's matrices."""
    served = ServedModels(settings)
    yield "Vad", _network(Model(settings.vad_model, settings), VAD_BYTES)
    for model in served:
        yield model.deployment, _recognizer(model, settings)
    if served.needs_streaming:
        config = configs.get("ParaformerStreaming", {})
        yield "ParaformerStreaming", _streaming(settings, int(config.get("max_streams", 512)), width)
        yield "Punctuation", _punctuation(settings, configs.get("Punctuation", {}))
    if has_speaker_model(settings):
        yield "SpeakerEmbedding", _network(Model(settings.speaker_model, settings), SPEAKER_BYTES)
    if has_aligner(settings):
        # Stored in bf16.
        weights = Model(settings.qwen3_aligner_model, settings).weights_bytes * width // _BF16
        yield "Qwen3Aligner", _need(weights, ALIGNER_BYTES)


def _need(weights: int, working: int, *kept: Part, fault: str | None = None) -> Need:
    parts = (Part("weights", weights), *kept, Part("working memory", working), Part("CUDA", CONTEXT_BYTES))
    return Need(parts, fault)


def _network(model: Model, activations: int, *kept: Part) -> Need:
    """Of one of FunASR's, in PyTorch or ONNX Runtime."""
    return _need(model.weights_bytes, _SPARE * activations + LIBRARIES_BYTES, *kept)


def _recognizer(model: ServedModel, settings: Settings) -> Need:
    files = Model(model.reference, settings)
    if model.is_generative:
        return _generative(files, settings)
    plain = model.engine == "paraformer" and not model.hears_hotwords
    return _network(files, RECOGNIZER_BYTES if plain else RECOGNIZER_BYTES + HOTWORDS_BYTES)


def _generative(files: Model, settings: Settings) -> Need:
    thinker = files.config().get("thinker_config", {})
    text = _TEXT_LAYERS | thinker.get("text_config", {})
    # Where "auto" is no bf16 on a GPU, it is fp16 for vLLM.
    width = _FP32 if settings.precision == "fp32" else _BF16
    # Keys and values, for each layer: https://docs.vllm.ai, "Paged Attention".
    token = text["num_hidden_layers"] * text["num_key_value_heads"] * text["head_dim"] * 2 * width
    tokens = min(settings.qwen3_max_model_len, int(text.get("max_position_embeddings", 2**31)))
    weights = files.weights_bytes * width // _BF16
    working = VLLM_LARGE_BYTES if files.weights_bytes > _LARGE_BYTES else VLLM_BYTES
    chosen = None if settings.qwen3_memory is None else int(settings.qwen3_memory * MIB)
    if settings.qwen3_engine == "package":
        return _need(weights, working, Part("cache", chosen or _PACKAGE_CACHE_BYTES))
    least, fault = tokens * token, None
    if chosen is not None and chosen < least:
        fault = (
            f"QWEN3_MEMORY is {gib(chosen)} GB, and one request of {tokens} tokens (QWEN3_MAX_MODEL_LEN) "
            f"takes {gib(least)} GB, at {token / 1024:g} KB a token: vLLM would not start."
        )
    return _need(weights, working, Part("cache", chosen or least), fault=fault)


def _streaming(settings: Settings, streams: int, width: int) -> Need:
    model = Model(settings.paraformer_streaming_model, settings)
    shape = _ENCODER | (model.config().get("encoder_conf") or {})
    row = int(shape["num_blocks"]) * 2 * int(shape["output_size"]) * width
    kept = int(streams * STREAM_ROWS * row * STREAM_GROWTH)
    return _network(model, CHUNKS_BYTES, Part(f"{streams} streams", kept))


def _punctuation(settings: Settings, config: Mapping[str, Any]) -> Need:
    models = (settings.punctuation_model, settings.punctuation_realtime_model)
    weights = sum(Model(name, settings).weights_bytes for name in models)
    words = sum(int(config.get(name, 2000)) for name in ("max_batch_words", "max_live_batch_words"))
    return _need(weights, _SPARE * words * WORD_BYTES + LIBRARIES_BYTES)
