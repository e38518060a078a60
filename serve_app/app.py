"""The whole graph on one screen."""

from typing import Any, cast

from ray.serve import Application

from deployments.model_store import find_model
from deployments.paraformer import Paraformer
from deployments.paraformer_streaming import ParaformerStreaming
from deployments.punctuation import Punctuation
from deployments.speaker_embedding import SpeakerEmbedding
from deployments.vad import Vad
from serve_app.ingress import Ingress
from serve_app.jobs.deployment import Jobs
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model, speaker_tuning


def build(args: dict[str, Any]) -> Application:
    """Build the graph; ``serve_config.yaml`` names this function as its ``import_path``.

    Args:
        args: settings, as in :class:`serve_app.settings.Settings`; the environment wins over them.

    Raises:
        pydantic.ValidationError: a setting is unknown or out of range.
        ModelMissing: a model directory is not there or not whole. Checked here, before any replica
            starts, because Serve would restart a replica that fails on it many times over.
    """
    settings = Settings(**args)

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
    jobs = node(Jobs, settings, vad, paraformer, punctuation, speakers, tuning)
    return node(Ingress, settings, vad, paraformer, punctuation, streaming, jobs, speakers, tuning)
