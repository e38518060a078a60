"""Log lines of replicas: each says on whose behalf it was written, as text or as JSON.

JSON is Ray Serve's own (``logging_config``, encoding ``JSON``), which it writes to files only: here it goes
to the standard error stream too, where containers and consoles are read.
"""

import logging
import logging.handlers
import sys

from deployments.origin import origin_now

SERVICE_LOGGER = "ray.serve"
"""Of the service and of Ray Serve's part in its processes."""


class OriginFilter(logging.Filter):
    """Lets everything pass, with the request, protocol and trace that it belongs to.

    Serve knows the request of a call only where that was made in the context of it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        origin = origin_now()
        if origin is not None:
            record.request_id = origin.request_id
            record.protocol = origin.protocol
            if origin.traceparent is not None:
                _, record.trace_id, record.span_id, _ = origin.traceparent.split("-")
        return True


def stamp_logs(*, json_lines: bool) -> None:
    """Have the log lines of this process say whose they are. May be called again."""
    service = logging.getLogger(SERVICE_LOGGER)
    places: list[logging.Filterer] = [service, *service.handlers]
    if json_lines:
        places += _write_json(service)
    for place in places:
        # After Serve's own filters, which know less.
        if not any(isinstance(known, OriginFilter) for known in place.filters):
            place.addFilter(OriginFilter())


def _write_json(service: logging.Logger) -> list[logging.Handler]:
    """What goes to the console looks as what goes to Serve's file, and so does what other loggers say."""
    files = [known for known in service.handlers if isinstance(known, logging.handlers.MemoryHandler)]
    if not files or files[0].target is None:
        return []
    formatter = files[0].target.formatter
    filters = [known for known in files[0].filters if not isinstance(known, OriginFilter)]
    root = logging.getLogger()
    if not any(isinstance(known, _Elsewhere) for known in root.handlers):
        root.addHandler(_Elsewhere(sys.stderr))
    elsewhere = [known for known in root.handlers if isinstance(known, _Elsewhere)]
    streams = [known for known in service.handlers if isinstance(known, logging.StreamHandler)]
    for handler in (*streams, *elsewhere):
        handler.setFormatter(formatter)
        for known in filters:
            handler.addFilter(known)
    return [*elsewhere]


class _Elsewhere(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """For loggers that are not the service's."""

    level = logging.WARNING
