"""Which models the settings name, and what the start of a server fetches of them."""

from collections.abc import Sequence
from pathlib import Path

from deployments.catalogue import load_catalogue
from deployments.engines.onnx_files import onnx_file
from deployments.model_layout import ModelMissing
from deployments.model_store import find_model
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.progress import Lines
from serve_app.model_hub.pull import pull
from serve_app.model_hub.selection import is_id, select
from serve_app.models import ServedModels, has_aligner
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model


def references(settings: Settings) -> list[str]:
    """What the models are called that a server with these settings loads: names, ids or directories."""
    served = ServedModels(settings)
    found = [*(model.reference for model in served), settings.vad_model]
    if served.needs_streaming:
        found += [
            settings.paraformer_streaming_model,
            settings.punctuation_model,
            settings.punctuation_realtime_model,
        ]
    if has_speaker_model(settings):
        found.append(settings.speaker_model)
    if has_aligner(settings):
        found.append(settings.qwen3_aligner_model)
    return list(dict.fromkeys(found))


def ensure_present(settings: Settings) -> None:
    """Fetch the models that a server with these settings loads and that are not on this machine, whole.

    Nothing happens, and no connection is opened, unless ``settings.download_models`` is set. Directories, and
    names that no hub knows, are left to who looks for them.

    Raises:
        ModelMissing: a model could not be fetched.
    """
    if settings.download_models:
        fetch_missing(references(settings), settings)


def fetchable(wanted: Sequence[str], settings: Settings) -> list[str]:
    """Those of the models that a hub has: no directories, and none that comes with the service."""
    catalogue = load_catalogue(settings.models_file)
    found = []
    for reference in wanted:
        entry = catalogue.find(reference)
        local = Path(reference).expanduser().is_dir()
        if not local and (is_id(reference) if entry is None else entry.ids):
            found.append(reference)
    return found


def fetch_missing(wanted: Sequence[str], settings: Settings) -> None:
    """Fetch those of the models that are not here, whole; each is a name, an id or a directory.

    Raises:
        ModelMissing: a model could not be fetched.
    """
    catalogue = load_catalogue(settings.models_file)
    for reference in fetchable(wanted, settings):
        entry = catalogue.find(reference)
        onnx = settings.funasr_engine == "onnx" and entry is not None and bool(entry.onnx)
        if _is_here(reference, settings, onnx=onnx):
            continue
        try:
            for model in select([reference], catalogue, onnx=onnx):
                done = pull(model, settings.modelscope_path, Lines(_say))
                _say(f"The model {done.name} is here now, and whole: {done.directory}.")
        except ModelHubError as error:
            raise ModelMissing(f"{reference} could not be downloaded. {error}") from error


def _say(line: str) -> None:
    # Ray runs what builds the graph in a process of its own, where nothing below a warning is logged. What it
    # prints is shown.
    print(line, flush=True)


def _is_here(reference: str, settings: Settings, *, onnx: bool) -> bool:
    try:
        directory = find_model(reference, settings.modelscope_path, prefer_onnx=onnx)
    except ModelMissing:
        return False
    return not onnx or is_id(reference) or onnx_file(directory) is not None
