"""``asr-serve doctor``: looks for what would keep the service from running, or make it slow."""

import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import httpx
import yaml
from packaging.requirements import Requirement
from pydantic import ValidationError
from rich.text import Text

from serve_app.cli import doctor_models
from serve_app.cli.doctor_models import Finding, Level
from serve_app.cli.machine import usable_cores, usable_memory
from serve_app.cli.ports import PortTaken, PortUnusable, check_port, url_of

_GB = 1024**3
_DECODERS = ("aac", "amrnb", "amrwb", "flac", "mp3", "opus", "pcm_s16le", "vorbis")
_EDGE_PORT = 10095


def examine(config: Path) -> list[Finding]:
    """Run every check. ``config`` is the Serve config whose ports, settings and models are looked at."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _cores,
        _memory,
        _disk,
        _arithmetic,
        _gpu,
        _decoders,
    ]
    findings = [finding for check in checks for finding in check()]
    document, finding = _read(config)
    findings.append(finding)
    findings += _ports(document)
    findings += _models(document)
    return findings


def line(finding: Finding) -> Text:
    """One line for the terminal."""
    color = {Level.FINE: "green", Level.NOTE: "yellow", Level.BLOCKS: "bold red"}[finding.level]
    text = Text.assemble((f"{finding.level:8}", color), f"{finding.name:27} ", finding.found)
    return text.append(f" -> {finding.advice}", style=color) if finding.advice else text


def _python() -> Iterator[Finding]:
    yield Finding("Python", Level.FINE, f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    wrong = []
    wanted = [Requirement(text) for text in requires("asr-serve") or []]
    core = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    for item in core:
        try:
            have = version(item.name)
        except PackageNotFoundError:
            wrong.append(f"{item.name} is missing")
            continue
        if not item.specifier.contains(have, prereleases=True):
            wrong.append(f"{item.name} is {have}, not {item.specifier}")
    if wrong:
        advice = "pip install -e . -c constraints.txt"
        yield Finding("packages", Level.BLOCKS, "; ".join(wrong), advice)
    else:
        shown = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "funasr"))
        yield Finding("packages", Level.FINE, f"{len(core)} as required ({shown})")


def _cores() -> Iterator[Finding]:
    cores = usable_cores()
    if cores >= 2:
        yield Finding("cores", Level.FINE, f"{cores:g}")
    else:
        yield Finding("cores", Level.NOTE, f"{cores:g}", "it works, slowly; give the service 2 or more")


def _memory() -> Iterator[Finding]:
    free = usable_memory() / _GB
    found = f"{free:.1f} GB free"
    if free < 2:
        yield Finding(
            "memory", Level.BLOCKS, found, "free some, or set QWEN3_MODEL=none; the graph needs about 4 GB"
        )
    elif free < 4:
        yield Finding("memory", Level.NOTE, found, "enough for the starter models; large models need 8 GB")
    else:
        yield Finding("memory", Level.FINE, found)
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total / _GB) < 0.5:
        advice = "Ray will keep audio on disk, which is slower; in Docker use --shm-size=2g"
        yield Finding("shared memory", Level.NOTE, f"{size:.2f} GB", advice)


def _disk() -> Iterator[Finding]:
    directory = tempfile.gettempdir()
    usage = shutil.disk_usage(directory)
    found = f"{usage.free / _GB:.1f} GB free in {directory}"
    if usage.free < _GB or usage.free < 0.05 * usage.total:
        advice = (
            "free some: uploads and Ray's files go there, and Ray stops working on a disk that is 95 % full"
        )
        yield Finding("disk", Level.BLOCKS, found, advice)
    else:
        yield Finding("disk", Level.FINE, found)


def _arithmetic() -> Iterator[Finding]:
    import torch  # takes seconds; the client's commands shall not pay for it

    from deployments.engines.precision import has_fast_bf16

    found = torch.backends.cpu.get_cpu_capability()
    if has_fast_bf16(torch.device("cpu")):
        yield Finding("CPU", Level.FINE, f"{found} with bf16: Paraformer runs in bf16")
    else:
        advice = "full-size models take about 5x longer than on a CPU with AVX512-BF16 or AMX"
        yield Finding("CPU", Level.NOTE, f"{found} without bf16: Paraformer runs in fp32", advice)


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        shown = ", ".join(f"{item.name} ({item.total_memory / _GB:.0f} GB)" for item in names)
        yield Finding("GPU", Level.FINE, shown)
    elif Path("/dev/nvidia0").exists():
        advice = "install torch with CUDA, and a driver that is new enough for it"
        yield Finding("GPU", Level.NOTE, f"there is one, but torch {torch.__version__} cannot use it", advice)
    else:
        yield Finding("GPU", Level.FINE, "none: everything runs on the CPU")


def _decoders() -> Iterator[Finding]:
    import av

    missing = [name for name in _DECODERS if name not in av.codecs_available]
    found = f"PyAV {version('av')} with libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if missing:
        advice = "pip install --force-reinstall --only-binary av av"
        yield Finding("audio", Level.NOTE, f"{found} cannot decode {', '.join(missing)}", advice)
    else:
        yield Finding("audio", Level.FINE, found)


def _read(config: Path) -> tuple[dict[str, Any], Finding]:
    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        advice = "run this in the project's directory, or give --config"
        return {}, Finding("config", Level.BLOCKS, f"{config}: {error.strerror}", advice)
    except yaml.YAMLError as error:
        return {}, Finding("config", Level.BLOCKS, f"{config}: {error}", "mend the YAML")
    if not isinstance(document, dict) or not document.get("applications"):
        return {}, Finding("config", Level.BLOCKS, f"{config} lists no applications", "see serve_config.yaml")
    return document, Finding("config", Level.FINE, str(config))


def _ports(document: dict[str, Any]) -> Iterator[Finding]:
    options = document.get("http_options") or {}
    host, port = str(options.get("host", "127.0.0.1")), int(options.get("port", 8000))
    try:
        check_port(host, port)
    except PortTaken:
        if _is_ours(url_of(host, port)):
            yield Finding(f"port {port}", Level.NOTE, "asr-serve already runs there")
        else:
            advice = f"stop what listens there, or choose another port: make serve PORT={port + 1}"
            yield Finding(f"port {port}", Level.BLOCKS, "in use", advice)
    except PortUnusable as error:
        yield Finding(f"port {port}", Level.BLOCKS, str(error), "choose another one: make serve PORT=8000")
    else:
        yield Finding(f"port {port}", Level.FINE, "free")
    try:
        check_port(host, _EDGE_PORT)
    except PortUnusable:
        advice = "FunASR clients expect the service there; they can be told another port"
        yield Finding(f"port {_EDGE_PORT}", Level.NOTE, "in use", advice)
    else:
        yield Finding(f"port {_EDGE_PORT}", Level.FINE, "free")


def _is_ours(url: str) -> bool:
    try:
        body = httpx.get(f"{url}/openapi.json", timeout=2, trust_env=False).json()
        return bool(body["info"]["title"] == "asr-serve")
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def _models(document: dict[str, Any]) -> Iterator[Finding]:
    try:
        yield from doctor_models.models((document.get("applications") or [{}])[0])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        yield Finding("settings", Level.BLOCKS, f"{where}: {first['msg']}", "see docs/configuration.md")
