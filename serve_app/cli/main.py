"""The ``asr-serve`` command: what it takes and prints. The work is done in the modules beside this one."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.cli import doctor as doctor_checks
from serve_app.cli import doctor_models, model_downloads, model_export, speaker_plot
from serve_app.cli import transcribe as transcription
from serve_app.cli.client import AsrClient
from serve_app.cli.common import DEFAULT_URL, ApiKey, Url, fail, run_command
from serve_app.cli.dashboards import dashboards
from serve_app.cli.environment import prepare_for_ray
from serve_app.cli.hotwords import SOME_IGNORED, Hotwords, as_sent
from serve_app.cli.jobs import jobs_app
from serve_app.cli.json_lines import json_console, wants_json
from serve_app.cli.models import models_app
from serve_app.cli.plan import make_plan
from serve_app.cli.ports import free_port
from serve_app.cli.speakers import speakers_app
from serve_app.cli.top import top
from serve_app.cli.transcribe import Format
from serve_app.observability.settings import LOOPBACK, MetricsError, read_metrics_settings

app = typer.Typer(no_args_is_help=True, help="Speech recognition for files: the server and its client.")
model_downloads.add_commands(models_app)
model_export.add_commands(models_app)
app.command()(top)
app.command()(dashboards)
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")
app.add_typer(speakers_app, name="speakers")

Config = Annotated[Path, typer.Option(help="Ray Serve config file.")]
FunasrPort = Annotated[
    int | None, typer.Option(help="Port of FunASR's clients, 0 for none; EDGE_FUNASR_PORT.")
]

DEFAULT_CONFIG = Path("serve_config.yaml")


@app.command()
def serve(
    config: Config = DEFAULT_CONFIG,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the config's if not given.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on; the config's if not given, 0 for a free one."
        ),
    ] = None,
    edge: Annotated[
        bool | None, typer.Option("--edge/--no-edge", help="Whether HAProxy is put in front; EDGE_ENABLED.")
    ] = None,
    funasr_port: FunasrPort = None,
) -> None:
    """Run the service in the foreground until Ctrl-C. SIGHUP makes it read the config again."""
    try:
        metrics = read_metrics_settings()
    except MetricsError as error:
        fail(str(error))
    prepare_for_ray(alone=metrics.host == LOOPBACK)
    from serve_app.cli import server

    if port == 0:
        port = free_port(host or "127.0.0.1")
    try:
        server.run(
            lambda: server.load_config(config, host, port),
            json_console() if wants_json(config) else Console(soft_wrap=True),
            metrics,
            {"enabled": edge, "funasr_port": funasr_port},
        )
    except server.ServeError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def edge(
    backends: Annotated[
        str | None, typer.Option(help="Serve nodes, as host:port,host:port; EDGE_BACKENDS.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; EDGE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of everything; EDGE_PORT.")] = None,
    funasr_port: FunasrPort = None,
    https_port: Annotated[
        int | None, typer.Option(help="Port of everything, with TLS; EDGE_HTTPS_PORT.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="host:port of /metrics, or off; EDGE_METRICS.")] = None,
    print_config: Annotated[bool, typer.Option(help="Print HAProxy's configuration, and end.")] = False,
) -> None:
    """Run the edge in the foreground: HAProxy in front of Serve nodes that run already."""
    from serve_app.cli import edge as edge_runner
    from serve_app.edge.errors import EdgeError
    from serve_app.edge.settings import read_settings

    try:
        settings = read_settings(
            backends=backends,
            host=host,
            port=port,
            funasr_port=funasr_port,
            https_port=https_port,
            metrics=metrics,
        )
        if print_config:
            print(edge_runner.show_configuration(settings), end="")
        else:
            edge_runner.run(settings, Console(soft_wrap=True))
    except EdgeError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio or video files.")],
    url: Url = DEFAULT_URL,
    format_: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.TEXT,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Write one file each here, not to the terminal.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", "-p", min=1, help="Files sent at once.")] = 4,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="One of `asr-serve models list --url`; default: the server's."),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="What is spoken: a code, as zh, or a name.")
    ] = None,
    speakers: Annotated[
        bool | None,
        typer.Option("--speakers/--no-speakers", help="Tell who speaks; the server's choice if not given."),
    ] = None,
    num_speakers: Annotated[
        int | None, typer.Option(min=1, help="How many there are, if you know; the same as --speakers.")
    ] = None,
    hotwords: Hotwords = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw who speaks when, in one file: a .png, .svg or .pdf.")
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Transcribe files through a running server."""
    errors = Console(stderr=True)
    try:
        jobs = transcription.plan(files, output_dir, format_)
        if plot:
            speaker_plot.check(plot, files, format_.value, speakers)
            speakers = True
        options, render = transcription.presentation(format_, language, speakers, num_speakers, model)
        options = replace(options, hotwords=as_sent(hotwords))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if plot:
        render = speaker_plot.drawing(
            plot, files[0].name, render, lambda text: errors.print(text, style="yellow")
        )

    async def run() -> int:
        async with AsrClient(url, api_key, parallel) as client:
            failed = await transcription.transcribe(client, jobs, options, parallel, errors, render)
            if client.ignored_hotwords:
                told = SOME_IGNORED.format(count=client.ignored_hotwords)
                errors.print(told, style="yellow", soft_wrap=True)
            return failed

    if failed := run_command(run()):
        fail(f"{failed} of {len(jobs)} files without a transcript.")


app.command("plan")(make_plan)


@app.command()
def doctor(config: Config = DEFAULT_CONFIG) -> None:
    """Check this machine: what would keep the service from running, or make it slow, and what to do."""
    console = Console()
    findings = doctor_checks.examine(config)
    for finding in findings:
        console.print(doctor_checks.line(finding), soft_wrap=True)
    blocking = sum(finding.level is doctor_models.Level.BLOCKS for finding in findings)
    if blocking:
        fail(f"{blocking} of {len(findings)} checks must be mended before `make serve` can work.")
    console.print(f"Nothing keeps the service from running ({len(findings)} checks).")


if __name__ == "__main__":
    app()
