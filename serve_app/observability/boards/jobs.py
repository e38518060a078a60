"""Jobs and their webhooks."""

from deployments import metrics as m
from serve_app.observability.panels import Board, panel_of
from serve_app.observability.queries import rate, ratio

_WHOLE = "max"
"""Each ``Jobs`` replica counts the jobs of the whole database."""

JOBS = Board(
    "asr-jobs",
    "asr-serve: jobs",
    (
        (
            "Backlog",
            (
                panel_of(
                    "Jobs",
                    "short",
                    "In the whole database.",
                    (f"{_WHOLE}({m.JOBS_QUEUED.exported})", "waiting"),
                    (f"{_WHOLE}({m.JOBS_RUNNING.exported})", "running"),
                ),
                panel_of(
                    "Age of the oldest that waits",
                    "s",
                    "How long a job waits that comes now, roughly.",
                    (f"{_WHOLE}({m.JOBS_OLDEST.exported})", "oldest"),
                ),
                panel_of(
                    "Audio worked off, seconds per second",
                    "x",
                    "Of jobs that were completed.",
                    (rate(m.JOB_AUDIO, ""), "completed"),
                ),
            ),
        ),
        (
            "Ends",
            (
                panel_of("Ended", "reqps", "By status.", (rate(m.JOBS_ENDED, "status"), "{{status}}")),
                panel_of(
                    "Failed",
                    "percentunit",
                    "Share of the jobs that ended.",
                    (
                        ratio(rate(m.JOBS_ENDED, "", 'status="failed"'), rate(m.JOBS_ENDED, "")),
                        "failed",
                    ),
                ),
                panel_of(
                    "Webhooks",
                    "reqps",
                    "postponed: the receiver did not take it, and is asked again.",
                    (rate(m.WEBHOOKS, "outcome"), "{{outcome}}"),
                ),
            ),
        ),
    ),
)
