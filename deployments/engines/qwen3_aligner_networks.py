"""Qwen3-ForcedAligner's network, on the classes of the qwen-asr package or on transformers' own.

The package holds transformers at version 4, and vLLM wants version 5, which knows the network itself, but
under other names. A checkpoint in the hub's layout has those of the package.
"""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from deployments.engines.model_files import SAME_MODEL, ModelFilesError
from deployments.engines.qwen3_loading import load_package_model
from deployments.engines.qwen3_ragged import ATTENTION, register
from deployments.engines.qwen3_windows import embeddings_of_frames

_SECOND = 100
"""Frames that the encoder takes at once."""

_RENAMED = (
    (r"^thinker\.audio_tower\.proj([12])\.", r"model.multi_modal_projector.linear_\1."),
    (r"^thinker\.audio_tower\.", "model.audio_tower."),
    (r"^thinker\.model\.", "model.language_model."),
    (r"^thinker\.lm_head\.", "score."),
)


class AlignerNetwork(Protocol):
    """A decoder over embeddings of audio and words, which classifies positions."""

    def encode(self, features: Tensor) -> Tensor:
        """Log-mel features ``(mels, frames)`` of some audio; its embeddings ``(tokens, width)``."""
        ...

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embeddings ``(tokens, width)`` of text."""
        ...

    def decode(self, embeddings: Tensor) -> Tensor:
        """Hidden states of ``(rows, tokens, width)``. No position sees those behind it."""
        ...

    def classify(self, hidden: Tensor) -> Tensor:
        """Scores of the classes, at the last axis."""
        ...


def load_aligner_network(
    model_dir: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> AlignerNetwork:
    """The network with the classes that are installed: transformers' own, or those of the qwen-asr package.

    ``config``: the contents of the directory's ``config.json``.

    Raises:
        ImportError: neither can be imported.
        ModelFilesError: weights are missing, or do not fit.
    """
    native = importlib.import_module("transformers")
    if hasattr(native, "Qwen3ASRForTokenClassification"):
        return _NativeNetwork(_load_native(native, model_dir, config, dtype).to(device))
    register()
    return _PackageNetwork(load_package_model(model_dir, dtype, device, ATTENTION))


class _PackageNetwork:
    def __init__(self, model: Any) -> None:
        self._thinker = model.thinker

    def encode(self, features: Tensor) -> Tensor:
        length = torch.tensor([features.shape[1]], device=features.device)
        encoded: Tensor = self._thinker.audio_tower(features, feature_lens=length).last_hidden_state
        return encoded

    def embed(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self._thinker.get_input_embeddings()(token_ids)
        return embedded

    def decode(self, embeddings: Tensor) -> Tensor:
        hidden: Tensor = self._thinker.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self._thinker.lm_head(hidden)
        return scores


class _NativeNetwork:
    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, features: Tensor) -> Tensor:
        frames = features.shape[1]
        missing = -frames % _SECOND
        mask = torch.arange(frames + missing, device=features.device) < frames
        encoded: Tensor = self._model.model.get_audio_features(
            pad(features, (0, missing))[None], mask[None].long()
        ).pooler_output
        return encoded.reshape(embeddings_of_frames(frames), -1)

    def embed(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self._model.get_input_embeddings()(token_ids)
        return embedded

    def decode(self, embeddings: Tensor) -> Tensor:
        network = self._model.model.language_model
        hidden: Tensor = network(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self._model.score(hidden)
        return scores


def _load_native(native: Any, model_dir: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """transformers' own model, with the weights of the hub's layout under its names.

    Its ``from_pretrained`` on the directory itself would find nothing it knows, and fill in random weights.
    """
    try:
        weights = {_renamed(name): weight for name, weight in _weights(model_dir).items()}
        model, info = native.Qwen3ASRForTokenClassification.from_pretrained(
            None,
            config=native.Qwen3ASRConfig(**_native_config(config)),
            state_dict=weights,
            dtype=dtype,
            output_loading_info=True,
        )
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelFilesError(model_dir, f"cannot be loaded: {error}", SAME_MODEL) from error
    problems = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
    if problems:
        raise ModelFilesError(model_dir, f"weights do not fit, such as {problems[:3]}", SAME_MODEL)
    return model.eval().requires_grad_(requires_grad=False)


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        name, count = re.subn(pattern, new, name)
        if count:
            break
    return name


def _native_config(config: dict[str, Any]) -> dict[str, Any]:
    thinker = config["thinker_config"]
    text = {key: value for key, value in thinker["text_config"].items() if key != "rope_scaling"}
    theta = text.pop("rope_theta", 1_000_000)
    # Rotary embeddings in sections for time, height and width are plain ones where all three count alike.
    text |= {"model_type": "qwen3", "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    left_out = ("model_type", "conv_chunksize", "max_source_positions")
    audio = {key: value for key, value in thinker["audio_config"].items() if key not in left_out}
    return {
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": thinker["audio_token_id"],
        "timestamp_token_id": config["timestamp_token_id"],
        "num_labels": thinker["classify_num"],
        "tie_word_embeddings": False,
    }


def _weights(model_dir: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files: Sequence[Path] = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError("there is no *.safetensors file")
    return {name: weight for file in files for name, weight in load_file(file).items()}
