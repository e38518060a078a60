"""The whole graph on one screen."""

from collections.abc import Callable
from typing import Any, cast

from ray.serve import Application

from deployments.model_store import find_model
from deployments.paraformer import Paraformer
from deployments.paraformer_streaming import ParaformerStreaming
from deployments.punctuation import Punctuation
from deployments.qwen3_aligner import Qwen3Aligner
from deployments.qwen3_asr import Qwen3ASR, Qwen3Options, choose_engine
from deployments.qwen3_store import find_qwen3
from deployments.speaker_embedding import SpeakerEmbedding
from deployments.vad import Vad
from serve_app.handles import ModelHandles
from serve_app.ingress import Ingress
from serve_app.jobs.deployment import Jobs
from serve_app.models import ServedModels, has_aligner, has_qwen3
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model, speaker_tuning


def build(args: dict[str, Any]) -> Application:
    """Build the graph; ``serve_config.yaml`` names this function as its ``import_path``.

    Args:
        args: settings, as in :class:`serve_app.settings.Settings`; the environment wins over them.

    Raises:
        pydantic.ValidationError: a setting is unknown or out of range.
        ModelMissing: a model directory is not there or not whole, or what runs it is not installed. Checked
            here, before any replica starts, because Serve would restart a replica that fails on it many
            times over.
        ModelNotFound: the default model is none of those that are served.
    """
    settings = Settings(**args)
    ServedModels(settings)

    def model(reference: str) -> str:
        return str(find_model(reference, settings.modelscope_path))

    def node(deployment: Any, *init_args: Any) -> Application:
        # One line per request is the ingress's; its calls to the models would add a dozen more.
        logs = {"log_level": settings.log_level, "enable_access_log": deployment is Ingress}
        return cast(Application, deployment.options(logging_config=logs).bind(*init_args))

    vad = node(Vad, model(settings.vad_model), settings.device)
    paraformer = node(Paraformer, model(settings.paraformer_model), settings.device, settings.precision)
    streaming = node(
        ParaformerStreaming,
        model(settings.paraformer_streaming_model),
        settings.device,
        settings.precision,
        settings.paraformer_streaming_threads,
    )
    punctuation = node(
        Punctuation,
        model(settings.punctuation_model),
        model(settings.punctuation_realtime_model),
        settings.device,
    )
    speakers = None
    if has_speaker_model(settings):
        speakers = node(SpeakerEmbedding, model(settings.speaker_model), settings.device, settings.precision)
    tuning = speaker_tuning(settings)
    models = ModelHandles(vad, paraformer, punctuation, streaming, speakers, *_qwen3(settings, node))
    jobs = node(Jobs, settings, models, tuning)
    return node(Ingress, settings, models, jobs, tuning)


def _qwen3(settings: Settings, node: Callable[..., Application]) -> list[Application | None]:
    """Qwen3-ASR and its aligner, if they are served."""
    if not has_qwen3(settings):
        return []

    def model(reference: str, *, aligner: bool) -> str:
        return str(find_qwen3(reference, settings.modelscope_path, aligner=aligner))

    # Which device a replica gets is not known here, but what is missing for each is.
    choose_engine(settings.qwen3_engine, settings.device)
    memory = settings.qwen3_memory
    options = Qwen3Options(
        settings.qwen3_engine,
        settings.device,
        settings.precision,
        settings.qwen3_threads,
        None if memory is None else int(memory * 1024 * 1024),
        settings.qwen3_max_model_len,
    )
    asr = node(Qwen3ASR, model(settings.qwen3_model, aligner=False), options)
    if not has_aligner(settings):
        return [asr, None]
    directory = model(settings.qwen3_aligner_model, aligner=True)
    return [
        asr,
        node(Qwen3Aligner, directory, settings.device, settings.precision, settings.qwen3_threads),
    ]
