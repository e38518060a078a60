"""Starts ``asr-serve serve`` on small applications, and finds what it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def serve_config(tmp_path: Path, name: str, build: str, greeting: str) -> Path:
    """Write a Serve config that runs ``tests.cli_apps:<build>``."""
    path = tmp_path / f"{name}.yaml"
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": f"tests.cli_apps:{build}",
        "args": {"greeting": greeting},
        "deployments": [{"name": "Greeter", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}],
    }
    options = {"host": "127.0.0.1", "port": 1}
    path.write_text(yaml.safe_dump({"http_options": options, "applications": [application]}))
    return path


def start(config: Path, port: int, mark: str) -> subprocess.Popen[str]:
    """Run ``asr-serve serve``; all processes that it starts inherit ``mark``."""
    options = ["--config", str(config), "--port", str(port)]
    command = [sys.executable, "-m", "serve_app.cli.main", "serve", *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(config.parent, mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment(directory: Path, mark: str) -> dict[str, str]:
    """Of a server that keeps what it writes in ``directory``."""
    data = {"DATA_DIR": str(directory / "data")}
    return {**os.environ, **data, "PYTHONPATH": str(ROOT), "ASR_SERVE_TEST_MARK": mark, "NO_COLOR": "1"}


def wait_for(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line of output that begins so; the test fails if the process ends without one."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(beginning):
            return line
    raise AssertionError("".join(seen))


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes that inherited ``mark`` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found
