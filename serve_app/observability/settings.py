"""Where ``asr-serve serve`` exports its metrics: environment variables, as they are the machine's affair."""

from typing import Final, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK: Final = "127.0.0.1"


class MetricsError(Exception):
    """A setting of the metrics is wrong; the message says which."""


class MetricsSettings(BaseSettings):
    """What a user can set. A variable is ``METRICS_`` and the field's name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="METRICS_", env_ignore_empty=True
    )

    host: Literal["127.0.0.1", "0.0.0.0"] = LOOPBACK
    """Who can read ``/metrics``: this machine, or everybody who reaches it (there is no key to it). It is one
    of these two because Ray exports it, which then listens there with all of its own ports, too."""

    port: int = Field(8080, ge=0, le=65535)
    """Port of ``/metrics``; 0 for a free one. If it is not set and 8080 is taken, a free one is used, too."""


def read_metrics_settings() -> MetricsSettings:
    """The settings of the environment.

    Raises:
        MetricsError: one of them is wrong.
    """
    try:
        return MetricsSettings()
    except ValidationError as error:
        first = error.errors()[0]
        raise MetricsError(f"METRICS_{str(first['loc'][0]).upper()}: {first['msg']}") from error
