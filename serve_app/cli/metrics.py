"""What ``asr-serve serve`` itself exports, and where: Ray's agent of this machine answers ``/metrics``."""

from deployments.instruments import Gauge
from deployments.metrics import CERTIFICATE_END
from serve_app.cli.front import Front
from serve_app.cli.ports import PortTaken, PortUnusable, check_port, free_port, url_of
from serve_app.observability.settings import MetricsError, MetricsSettings


class MetricsExport:
    """Holds no port: Ray opens it when it starts."""

    def __init__(self, settings: MetricsSettings) -> None:
        """Choose the port.

        Raises:
            MetricsError: the one that was asked for cannot be had.
        """
        self._host = settings.host
        self.port = _port(settings)
        """For ``ray.init``."""
        self._certificate: Gauge | None = None

    @property
    def url(self) -> str:
        """Where Prometheus on this machine finds it."""
        return url_of(self._host, self.port) + "/metrics"

    def tell_certificate(self, front: Front) -> None:
        """Export when the edge's certificate ends, where there is one; to be called every few seconds, while
        Ray runs."""
        ends = front.certificate_ends
        if ends is not None:
            self._certificate = self._certificate or Gauge(CERTIFICATE_END)
            self._certificate.put(ends.timestamp())


def _port(settings: MetricsSettings) -> int:
    if not settings.port:
        return free_port(settings.host)
    try:
        check_port(settings.host, settings.port)
    except PortTaken as error:
        if "port" in settings.model_fields_set:
            raise MetricsError(f"METRICS_PORT: {error} Choose another one, or 0 for a free one.") from error
        return free_port(settings.host)
    except PortUnusable as error:
        raise MetricsError(f"METRICS_PORT: {error}") from error
    return settings.port
