"""What ``asr-serve serve`` itself exports, and where: Ray's agent of this machine answers ``/metrics``."""

import socket
import sys

from deployments.instruments import Gauge
from deployments.metrics import CERTIFICATE_END
from serve_app.cli.front import Front
from serve_app.cli.ports import PortTaken, PortUnusable, check_port, free_port, url_of
from serve_app.observability.settings import MetricsError, MetricsSettings


class MetricsExport:
    """Chooses the port, which Ray opens when it starts."""

    def __init__(self, settings: MetricsSettings) -> None:
        """Take the port for this process.

        Raises:
            MetricsError: the one that was asked for cannot be had.
        """
        self._host = settings.host
        self._claim = socket.socket(socket.AF_UNIX)
        self.port = settings.port and self._taken(settings)
        """For ``ray.init``."""
        if not self.port:
            self.port = free_port(self._host)
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

    def close(self) -> None:
        """Leave the port to others."""
        self._claim.close()

    def _taken(self, settings: MetricsSettings) -> int:
        """The port of the settings; 0 where it is taken and nobody asked for it."""
        try:
            check_port(settings.host, settings.port)
            self._claim_port(settings.port)
        except PortTaken as error:
            if "port" in settings.model_fields_set:
                raise MetricsError(
                    f"METRICS_PORT: {error} Choose another one, or 0 for a free one."
                ) from error
            return 0
        except PortUnusable as error:
            raise MetricsError(f"METRICS_PORT: {error}") from error
        return settings.port

    def _claim_port(self, port: int) -> None:
        """Keep a second server that starts at the same time from it: Ray opens the port seconds later, and
        ends where it cannot."""
        if sys.platform != "linux":
            return
        try:
            # Of Linux's abstract names: one for each network, and gone with the process.
            self._claim.bind(f"\0asr-serve-metrics-{port}")
        except OSError as error:
            raise PortTaken(f"Port {port} is in use.") from error
