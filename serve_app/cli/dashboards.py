"""``asr-serve dashboards``: what Grafana and Prometheus are given to watch the service."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.cli.common import fail
from serve_app.observability.dashboards import write


def dashboards(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory for dashboards/*.json, rules.yaml, alerts.yaml.")
    ] = Path("k8s/monitoring"),
) -> None:
    """Write the dashboards of Grafana and the alert rules of Prometheus."""
    try:
        written = write(output)
    except OSError as error:
        fail(f"The files cannot be written to {output}: {error.strerror or error}.")
    console = Console(soft_wrap=True)
    for path in written:
        console.print(str(path), highlight=False)
