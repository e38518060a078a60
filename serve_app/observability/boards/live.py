"""Live sessions, and what people wait for."""

from deployments import metrics as m
from serve_app.observability.panels import PROTOCOL, STAGE, Board, panel_of, spread
from serve_app.observability.queries import growth, largest, rate, total

LIVE = Board(
    "asr-live",
    "asr-serve: live sessions",
    (
        (
            "Sessions",
            (
                panel_of("Open", "short", "Live sessions.", (total(m.LIVE_SESSIONS, "protocol"), PROTOCOL)),
                panel_of(
                    "Ended",
                    "reqps",
                    "finished: all events were told. abandoned: the client left before.",
                    (rate(m.LIVE_ENDED, "outcome"), "{{outcome}}"),
                ),
                panel_of(
                    "Audio, seconds per second",
                    "x",
                    "More than sessions are open: clients send faster than people speak.",
                    (rate(m.RECEIVED_AUDIO, "protocol", 'kind="live"'), PROTOCOL),
                ),
            ),
        ),
        (
            "What people wait for",
            (
                panel_of(
                    "First text (first update)",
                    "s",
                    "From the first audio to the first partial text; silence before the speech counts.",
                    *spread(m.LIVE_FIRST_PARTIAL, "protocol", PROTOCOL),
                ),
                panel_of(
                    "Final after the stop",
                    "s",
                    "From the end of the audio to the last event.",
                    *spread(m.LIVE_FINAL_AFTER_END, "protocol", PROTOCOL),
                ),
                panel_of(
                    "Lag of sentences",
                    "s",
                    "From the end of a sentence to its final; the pause that ends it, 0.8 s, is in it.",
                    *spread(m.LIVE_LAG, "protocol", PROTOCOL),
                ),
            ),
        ),
        (
            "Models",
            (
                panel_of(
                    "Lag of a stage",
                    "s",
                    "95 % of live items had their result within this, in the replica that is worst.",
                    (largest(m.STAGE_LAG), STAGE),
                ),
                panel_of(
                    "Streams",
                    "short",
                    "Streams in all replicas of ParaformerStreaming.",
                    (total(m.STREAMS), STAGE),
                ),
                panel_of(
                    "Replays",
                    "short",
                    "Streams that were begun again, since their replica was lost or replaced.",
                    (growth(m.LIVE_REPLAYS, "protocol"), PROTOCOL),
                ),
            ),
        ),
    ),
)
