"""The edge, as HAProxy counts it."""

from serve_app.observability.panels import NODE, Board, panel_of
from serve_app.observability.queries import STEP

EDGE = Board(
    "asr-edge",
    "asr-serve: edge",
    (
        (
            "Clients",
            (
                panel_of(
                    "Connections",
                    "short",
                    "Open now, by listener.",
                    ("sum by (proxy) (haproxy_frontend_current_sessions)", "{{proxy}}"),
                ),
                panel_of(
                    "Answers",
                    "reqps",
                    "By the first digit of their status. 5xx where no node is up are the edge's own.",
                    (
                        "sum by (code) (rate("
                        f'haproxy_frontend_http_responses_total{{proxy="clients"}}[{STEP}]))',
                        "{{code}}",
                    ),
                ),
                panel_of(
                    "Bytes",
                    "Bps",
                    "From and to clients.",
                    (f"sum(rate(haproxy_frontend_bytes_in_total[{STEP}]))", "in"),
                    (f"sum(rate(haproxy_frontend_bytes_out_total[{STEP}]))", "out"),
                ),
            ),
        ),
        (
            "Nodes",
            (
                panel_of(
                    "Nodes that are up",
                    "short",
                    "Serve nodes that answer the edge's checks.",
                    ('sum by (instance) (haproxy_backend_active_servers{proxy="nodes"})', NODE),
                ),
                panel_of(
                    "Connections by node",
                    "short",
                    "Open now.",
                    ('sum by (server) (haproxy_server_current_sessions{proxy="nodes"})', "{{server}}"),
                ),
                panel_of(
                    "Faults between edge and nodes",
                    "reqps",
                    "Connections that could not be made, and answers that broke off.",
                    (
                        f'sum(rate(haproxy_backend_connection_errors_total{{proxy="nodes"}}[{STEP}]))',
                        "connections",
                    ),
                    (f'sum(rate(haproxy_backend_response_errors_total{{proxy="nodes"}}[{STEP}]))', "answers"),
                ),
            ),
        ),
    ),
)
