"""What it costs that audio crosses from one node to another.

``python -m benchmarks.cluster`` starts two Ray nodes on this machine, with an ingress and one graph of models
on the first (*near*) and another graph of the same models on the second (*far*). The same recordings go to
both by turns. Nodes have object stores of their own, so what is far is copied over a socket, as between
machines; only the wire is missing, which at 10 Gbit/s takes 0.8 ms for a block of 30 s.
"""

import copy
import io
import statistics
import tempfile
import time
import wave
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.make_speech import make_recording
from benchmarks.ray_nodes import ROOT, Machine, ray_nodes

_SIDES = ("near", "far")
_ARGS = {"device": "cpu", "qwen3_model": "none", "speaker_model": "none"}


def config(port: int) -> dict[str, Any]:
    """The config of one machine, twice: once with models where the ingress is, once with models elsewhere."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    made["proxy_location"] = "HeadOnly"
    made["http_options"] |= {"host": "127.0.0.1", "port": port}
    (only,) = made["applications"]
    made["applications"] = [_at(only, side) for side in _SIDES]
    return made


def _at(application: Mapping[str, Any], side: str) -> dict[str, Any]:
    moved = copy.deepcopy(dict(application))
    moved |= {"name": side, "route_prefix": f"/{side}", "args": _ARGS}
    for deployment in moved["deployments"]:
        is_front = deployment["name"] in ("Ingress", "Jobs")
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = 1
        options = {"num_cpus": 0, "resources": {"near" if is_front else side: 0.001}}
        deployment["ray_actor_options"] = options
    return moved


def compare(url: str, recording: bytes, rounds: int) -> dict[str, list[float]]:
    """Seconds of each request, by side; by turns, so that what else the machine does meets both.

    Raises:
        RuntimeError: a request failed, or the two sides do not say the same.
    """
    seconds: dict[str, list[float]] = {side: [] for side in _SIDES}
    texts: set[str] = set()
    # The first request of a side finds nothing ready.
    for number in range(rounds + 1):
        for side in _SIDES:
            took, text = _transcribe(f"{url}/{side}", recording)
            texts.add(text)
            if number:
                seconds[side].append(took)
    if len(texts) != 1:
        raise RuntimeError(f"near and far do not say the same: {sorted(texts)}")
    return seconds


def throughput(url: str, recording: bytes, files: int, at_once: int) -> float:
    """Seconds that so many files take."""
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(lambda _: _transcribe(url, recording), range(files)):
            pass
    return time.perf_counter() - began


def _transcribe(url: str, recording: bytes) -> tuple[float, str]:
    began = time.perf_counter()
    answer = httpx.post(
        f"{url}/v1/audio/transcriptions", files={"file": recording}, timeout=300, trust_env=False
    )
    if not answer.is_success:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    return time.perf_counter() - began, str(answer.json()["text"])


def _first(path: Path, seconds: float) -> bytes:
    with wave.open(str(path)) as whole, io.BytesIO() as part:
        with wave.open(part, "wb") as short:
            short.setparams(whole.getparams())
            short.writeframes(whole.readframes(round(seconds * whole.getframerate())))
        return part.getvalue()


def measure(url: str, recording: Path, rounds: int, files: int, at_once: int) -> Table:
    """Latency of recordings of several lengths, and throughput, of both sides and their ratio."""
    table = Table("recording", "near", "far", "far / near")
    for seconds in (5, 30, 300):
        took = compare(url, _first(recording, seconds), rounds)
        middle = {side: statistics.median(took[side]) for side in _SIDES}
        shown = (f"{middle[side] * 1000:.0f} ms" for side in _SIDES)
        table.add_row(f"{seconds} s, p50", *shown, f"{middle['far'] / middle['near']:.2f}")
    minute = _first(recording, 60)
    spent = dict.fromkeys(_SIDES, 0.0)
    for side in (*_SIDES, *reversed(_SIDES)):
        spent[side] += throughput(f"{url}/{side}", minute, files, at_once)
    rtfx = {side: 2 * files * 60 / spent[side] for side in _SIDES}
    shown = (f"{rtfx[side]:.0f}x" for side in _SIDES)
    table.add_row(f"{files} of 60 s, {at_once} at once", *shown, f"{rtfx['far'] / rtfx['near']:.2f}")
    return table


def main(
    rounds: Annotated[int, typer.Option(help="How often each recording is sent.")] = 15,
    files: Annotated[int, typer.Option(help="Files of a minute for the throughput.")] = 24,
    at_once: Annotated[int, typer.Option(help="How many of them at once.")] = 8,
) -> None:
    """Print medians, and throughput, of both sides and their ratio."""
    from serve_app.cli.ports import free_port

    recording = make_recording(300, seed=1)
    near, far, port = Machine("127.0.0.2"), Machine("127.0.0.3"), free_port("127.0.0.1")
    # Sockets lie in it, whose paths must be short.
    folder = tempfile.TemporaryDirectory(prefix="asr-", dir="/tmp")
    with folder as path, ray_nodes(Path(path), near) as cluster:
        cluster.start("head", near, "--num-cpus", "4", "--resources", '{"near": 1}')
        cluster.start("far", far, "--num-cpus", "4", "--resources", '{"far": 1}')
        cluster.deploy(config(port))
        Console().print(measure(f"http://127.0.0.1:{port}", recording, rounds, files, at_once))


if __name__ == "__main__":
    typer.run(main)
