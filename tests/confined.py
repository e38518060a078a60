"""Runs a program with what a pod of ``k8s/`` leaves it: no privileges, a read-only disk, a network.

As a program, this module is what runs inside: Ray as KubeRay starts it, with the Serve config of an overlay.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]

_ENTER = """
set -e
mount --make-rprivate /
ip link set lo up
for directory in "$1" "$2"; do
    mount --bind "$directory" "$directory"
    mount -o remount,bind,ro "$directory"
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
mkdir /tmp/home /tmp/data
cd "$1"
shift 2
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
_READY_SECONDS = 150
_KEY = "a-key"


def confined(command: Sequence[str]) -> list[str]:
    """The command, such that it has nothing but what a pod has."""
    # What it started ends with it, since it is process 1 of a namespace.
    enter = ["unshare", "--mount", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    return [*enter, "sh", "-c", _ENTER, "sh", str(ROOT), sys.prefix, *command]


@cache
def why_not() -> str | None:
    """Why this machine does not let a program be confined; ``None``: it does."""
    try:
        done = subprocess.run(
            confined(["true"]), capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "it may not" if done.returncode else None


class _Cluster:
    """Ray in here, asked as KubeRay and a pod's probes ask it."""

    def __init__(self, token: str) -> None:
        self._headers = {"Authorization": f"Bearer {token}"}

    def answers(self, address: str) -> int:
        """The status; 0: nobody is there."""
        try:
            return httpx.get(f"http://127.0.0.1:{address}", timeout=10).status_code
        except httpx.TransportError:
            return 0

    def deploy(self, config: Mapping[str, Any]) -> dict[str, int]:
        url = "http://127.0.0.1:8265/api/serve/applications/"
        return {
            "without the key": httpx.put(url, json=dict(config), timeout=60).status_code,
            "with the key": httpx.put(url, json=dict(config), timeout=60, headers=self._headers).status_code,
        }

    def application(self) -> dict[str, Any]:
        answer = httpx.get("http://127.0.0.1:8265/api/serve/applications/", timeout=20, headers=self._headers)
        found: dict[str, Any] = answer.json()["applications"].get("asr", {})
        return found

    def until_deployed(self) -> dict[str, Any]:
        deadline = time.monotonic() + _READY_SECONDS
        application = self.application()
        while application.get("status") not in ("RUNNING", "DEPLOY_FAILED") and time.monotonic() < deadline:
            time.sleep(0.5)
            application = self.application()
        return application


def _start_head(env: Mapping[str, str]) -> None:
    """``ray start`` as KubeRay writes it, on a node that has CPUs."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus", "4"]
    command += ["--memory", "4000000000", "--object-store-memory", "120000000", "--dashboard-host", "0.0.0.0"]
    command += ["--metrics-export-port", "8080", "--dashboard-agent-listen-port", "52365"]
    with (Path("/tmp") / "ray.log").open("wb") as log:
        subprocess.Popen(command, env=dict(env), stdout=log, stderr=subprocess.STDOUT)


def serve(env: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Deploy a config with these variables; what was seen."""
    token = secrets.token_hex(32)
    own = {"API_KEY": _KEY, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "OMP_NUM_THREADS": "1"}
    cluster = _Cluster(token)
    _start_head({**os.environ, **env, **own})
    deadline = time.monotonic() + _READY_SECONDS
    while cluster.answers("52365/api/healthz") != 200 and time.monotonic() < deadline:
        time.sleep(0.3)
    seen: dict[str, Any] = {"alive": cluster.answers("52365/api/healthz"), **cluster.deploy(config)}
    application = cluster.until_deployed()
    seen["status"], seen["message"] = application.get("status"), application.get("message")
    seen["deployments"] = sorted(application.get("deployments", {}))
    seen["ready"] = cluster.answers("8000/-/healthz")
    seen["metrics"] = [cluster.answers(f"{port}/metrics") for port in (8080, 44217, 44227)]
    seen["text"] = transcribe()
    return seen


def transcribe() -> str:
    with (ROOT / "samples" / "home.wav").open("rb") as file:
        answer = httpx.post(
            "http://127.0.0.1:8000/v1/audio/transcriptions",
            files={"file": file},
            headers={"Authorization": f"Bearer {_KEY}"},
            timeout=60,
        )
    return str(answer.json().get("text", answer.text))


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(serve(given["env"], given["config"])))
