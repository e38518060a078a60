"""Settings of other servers that are understood here, and cannot be met."""

from collections.abc import Iterator

from serve_app.settings import Settings


def unmet_settings(settings: Settings) -> Iterator[str]:
    """A sentence for each variable that is set to what this service does not do, with what does it."""
    if settings.asr_enable_lm:
        yield (
            "ASR_ENABLE_LM is set, but there is no n-gram language model here: recognition goes on without. "
            "Hotwords make names and terms likelier (docs/hotwords.md)."
        )
    if settings.workers is not None and settings.workers.strip() not in ("", "1"):
        yield (
            f"WORKERS is {settings.workers!r:.20}, but how many replicas there are says num_replicas of each "
            "deployment in serve_config.yaml; the one that takes requests is Ingress."
        )
