"""Traffic, errors, files: how the service does as a whole."""

from deployments import metrics as m
from serve_app.observability.panels import PROTOCOL, Board, panel_of, spread
from serve_app.observability.queries import quantile, rate, ratio

OVERVIEW = Board(
    "asr-overview",
    "asr-serve: overview",
    (
        (
            "Traffic",
            (
                panel_of(
                    "Requests",
                    "reqps",
                    "HTTP requests and closed WebSocket connections, by what the client speaks.",
                    (rate(m.REQUESTS, "protocol"), PROTOCOL),
                ),
                panel_of(
                    "What came of them",
                    "reqps",
                    "refused: the client was told what was wrong, or to come again. failed: our fault.",
                    (rate(m.REQUESTS, "outcome"), "{{outcome}}"),
                ),
                panel_of(
                    "Audio taken in, seconds per second",
                    "x",
                    "What the service carries: 30 is as much as thirty people who speak.",
                    (rate(m.RECEIVED_AUDIO, "protocol, kind"), "{{protocol}}, {{kind}}"),
                ),
            ),
        ),
        (
            "Errors and refusals",
            (
                panel_of(
                    "Errors told to clients",
                    "reqps",
                    "By their class in serve_app/errors.py.",
                    (rate(m.ERRORS, "error"), "{{error}}"),
                ),
                panel_of(
                    "Refused for lack of room",
                    "percentunit",
                    "Share of requests that were told to come again. Above zero for long: more replicas.",
                    (
                        ratio(rate(m.ERRORS, "", 'error="overloaded"'), rate(m.REQUESTS, "")),
                        "overloaded",
                    ),
                    (
                        ratio(rate(m.ERRORS, "", 'error="rate_limited"'), rate(m.REQUESTS, "")),
                        "rate limit",
                    ),
                ),
                panel_of(
                    "Failed",
                    "percentunit",
                    "Share of requests that ended by a fault of the server.",
                    (ratio(rate(m.REQUESTS, "", 'outcome="failed"'), rate(m.REQUESTS, "")), "failed"),
                ),
            ),
        ),
        (
            "Files",
            (
                panel_of(
                    "Time for an answer",
                    "s",
                    "From the first byte of a request to the last of its answer, uploads included.",
                    *spread(m.REQUEST_SECONDS, "protocol", PROTOCOL),
                ),
                panel_of(
                    "Time for a file",
                    "s",
                    "The part of it from decoding to the transcript.",
                    *spread(m.FILE_SECONDS, "protocol", PROTOCOL),
                ),
                panel_of(
                    "RTF of files",
                    "short",
                    "Seconds per second of audio, from decoding to transcript. The mean is exact.",
                    (ratio(rate(m.FILE_WORK_SECONDS, ""), rate(m.RECEIVED_AUDIO, "", 'kind="file"')), "mean"),
                    (quantile(0.95, m.FILE_RTF, ""), "p95"),
                ),
                panel_of(
                    "Places",
                    "percentunit",
                    "Share of the places that ingress replicas have. At 1, clients are refused.",
                    (f"sum({m.FILES.exported}) / sum({m.MAX_FILES.exported})", "files"),
                    (
                        f"sum({m.LIVE_SESSIONS.exported}) / sum({m.MAX_LIVE_SESSIONS.exported})",
                        "live sessions",
                    ),
                ),
            ),
        ),
    ),
)
