"""The tables of ``docs/observability.md``: ``python -m serve_app.observability.tables`` prints them."""

from collections.abc import Iterator

from deployments.metrics import METRICS, Source
from serve_app.observability.alerts import ALERTS

_SOURCES: dict[Source, str] = {
    "models": "Each model deployment",
    "ingress": "`Ingress`",
    "jobs": "`Jobs`",
    "server": "`asr-serve serve`",
}


def metrics_tables() -> dict[str, str]:
    """Markdown of all metrics, by who exports them."""
    return {heading: "\n".join(_metrics(source)) + "\n" for source, heading in _SOURCES.items()}


def alerts_table() -> str:
    """Markdown of all alerts."""
    rows = ["| alert | after | severity | threshold |", "|---|---|---|---|"]
    for alert in ALERTS:
        link = f"[{alert.name}](runbook.md#{alert.anchor})"
        rows.append(f"| {link} | {alert.wait} | {alert.severity} | {alert.why} |")
    return "\n".join(rows) + "\n"


def _metrics(source: Source) -> Iterator[str]:
    yield "| metric | kind | unit | tags | |"
    yield "|---|---|---|---|---|"
    for metric in METRICS:
        if metric.source == source:
            tags = ", ".join(f"`{tag}`" for tag in metric.tags) or "–"
            cells = f"`{metric.exported}`", metric.kind, metric.unit, tags, metric.description
            yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for heading, table in metrics_tables().items():
        print(f"### {heading}\n\n{table}")
    print(alerts_table())
