"""Whether the GPUs of a machine are enough for a Serve config."""

from collections.abc import Callable, Iterator

from pydantic import ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from serve_app.capacity.budget import Sharing, sharing, too_many, too_small
from serve_app.capacity.cards import sold_as, told_by_driver
from serve_app.capacity.needs import needs
from serve_app.cli.served import GRAPH
from serve_app.enabled_models import choose_models
from serve_app.gpu_memory import lacks_bf16, smallest_gpu
from serve_app.settings import Settings

_MIB = 2**20


def gpu_shortage(
    config: ServeDeploySchema, gpus: int, asked: Callable[[], int | None] = smallest_gpu
) -> str | None:
    """What is wrong with the ``num_gpus`` of a config on a machine with so many GPUs; ``None``: nothing.

    Ray would not complain: a replica whose share is not there waits for it for ever. Ray does not watch over
    memory either, so a replica that needs more than its share ends in a GPU that is full. Replicas count at
    their largest number. Where nobody knows how much memory a GPU has (``GPU_MEMORY`` is not set, and
    ``asked`` gives ``None``), only shares are counted.
    """
    everything = [entry for application in config.applications for entry in _sharings(application)]
    shortage = too_many(everything, gpus)
    if shortage is not None or not any(entry.share for entry in everything):
        return shortage
    return next(filter(None, (_too_small(each, asked) for each in config.applications)), None)


def card_bytes(settings: Settings, asked: Callable[[], int | None] = smallest_gpu) -> int | None:
    """Bytes that programs have of each GPU, or of the smallest one; ``None``: not known."""
    if settings.gpu_memory is not None:
        return sold_as(settings.gpu_memory * _MIB)
    told = asked()
    return None if told is None else told_by_driver(told)


def _sharings(application: ServeApplicationSchema) -> Iterator[Sharing]:
    for deployment in application.deployments:
        yield sharing(deployment.model_dump(exclude_unset=True))


def _too_small(application: ServeApplicationSchema, asked: Callable[[], int | None]) -> str | None:
    if application.import_path != GRAPH:
        return None
    try:
        settings = choose_models(Settings(**application.args)).settings
    except ValidationError:
        # The graph itself says best which setting is wrong.
        return None
    memory = card_bytes(settings, asked)
    if memory is None:
        return None
    entries = list(_sharings(application))
    configs = {entry.name: entry.config for entry in entries}
    return too_small(entries, needs(settings, configs, bf16=not lacks_bf16()), memory)
