"""Which models there are and how they do, in the words of both generations of funasr-api."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from deployments.model_store import ModelMissing, find_model
from deployments.qwen3_store import find_qwen3
from serve_app.models import ServedModel
from serve_app.services import READY, Services, is_loaded

_DESCRIPTIONS = {
    "paraformer": "Paraformer: Chinese, with English words in it; files and live speech.",
    "qwen3": "Qwen3-ASR: 30 languages and 22 Chinese dialects; files and live speech.",
}
"""Of models that the catalogue has no title for, or a shorter one."""


def health_body(services: Services, states: Mapping[str, str]) -> dict[str, Any]:
    """``GET /stream/v1/asr/health``; ``states`` of the deployments by name."""
    ready = bool(states) and all(state == READY for state in states.values())
    missing = ", ".join(f"{name} is {state}" for name, state in states.items() if state != READY)
    device = services.settings.device
    return {
        "status": "healthy" if ready else "unhealthy",
        "model_loaded": is_loaded(services.models.default, states),
        # Where a replica runs only the replica knows, if it may choose.
        "device": "unknown" if device == "auto" else device,
        "version": version("asr-serve"),
        "message": "All models are ready."
        if ready
        else f"Not all models are ready: {missing or 'none runs'}.",
        "loaded_models": _loaded(services, states),
        "memory_usage": None,
    }


def models_body(services: Services, states: Mapping[str, str]) -> dict[str, Any]:
    """``GET /stream/v1/asr/models``: what either generation has, side by side."""
    entries = [_entry(services, model, states) for model in services.models]
    loaded = _loaded(services, states)
    return {
        "models": [{**entry, "loaded": entry["id"] in loaded, "asr_model_mode": "all"} for entry in entries],
        "total": len(entries),
        "loaded_count": len(loaded),
        "asr_model_mode": "all",
        "declared_entries": [{**entry, "kind": "model"} for entry in entries],
        "declared_count": len(entries),
        "runtime": {
            "loaded_model_ids": loaded,
            "loaded_count": len(loaded),
            "default_offline_model_id": services.models.default.id,
        },
    }


def _loaded(services: Services, states: Mapping[str, str]) -> list[str]:
    return [model.id for model in services.models if is_loaded(model, states)]


def _entry(services: Services, model: ServedModel, states: Mapping[str, str]) -> dict[str, Any]:
    alone, settings = model.is_generative, services.settings
    return {
        "id": model.id,
        "name": model.id,
        "engine": model.engine,
        "description": _description(model),
        "languages": [*model.languages],
        "capabilities": sorted(model.gives),
        "default": model is services.models.default,
        # Others need a model of their own while somebody speaks.
        "supports_realtime": states.get(model.deployment if alone else "ParaformerStreaming") == READY,
        "offline_model": _files(services, model.reference, generative=alone),
        "realtime_model": _files(
            services, model.reference if alone else settings.paraformer_streaming_model, generative=alone
        ),
    }


def _description(model: ServedModel) -> str:
    title = _DESCRIPTIONS.get(model.engine)
    return title or (model.id if model.entry is None else f"{model.entry.title}.")


def _files(services: Services, reference: str, *, generative: bool) -> dict[str, Any]:
    exists, root = False, services.settings.modelscope_path
    with suppress(ModelMissing):
        if generative:
            find_qwen3(reference, root, aligner=False)
        else:
            find_model(reference, root)
        exists = True
    return {"path": reference, "exists": exists}
