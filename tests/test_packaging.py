"""The distribution, its pins, the Makefile, and the directions in which packages import each other."""

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from importlib.metadata import distribution, entry_points, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve_app.cli.ports import free_port
from tests.cli_server import environment, processes_with, serve_config, wait_for

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"


def pins() -> dict[str, str]:
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def needed_by(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Names of all distributions that installing ``name[extras]`` brings, from the installed metadata."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    yield name
    for text in requires(name) or []:
        item = Requirement(text)
        wanted = [{"extra": extra} for extra in ("", *extras)]
        if item.marker is None or any(item.marker.evaluate(environment) for environment in wanted):
            yield from needed_by(canonicalize_name(item.name), frozenset(item.extras), seen)


def test_every_package_that_the_set_up_brings_is_pinned() -> None:
    # setuptools comes with the virtual environment itself.
    brought = set(needed_by("asr-serve", frozenset({"dev"}), set())) - {"asr-serve", "setuptools"}
    assert brought - pins().keys() == set()


def test_pins_are_plain_versions() -> None:
    for line in PINS.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line
    assert pins()["torch"] == "2.13.0"
    assert pins()["openai"] == "3.52.0"


def test_installed_metadata() -> None:
    metadata = distribution("asr-serve").metadata
    assert set(metadata.get_all("Provides-Extra") or []) == {
        "dev",
        "export",
        "plot",
        "postgres",
        "qwen",
        "redis",
        "train",
        "vllm",
    }
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "asr-serve"]
    assert callable(script.load())


def test_every_package_is_in_the_distribution() -> None:
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    tops = {pattern.removesuffix("*") for pattern in include["include"]}
    with_code = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[a-z]*/**/*.py")}
    # build/: what trainings and benchmarks leave.
    assert with_code - tops - {"build"} == {"docs", "k8s", "tests"}
    missing = {
        str(path.parent.relative_to(ROOT))
        for top in tops
        for path in (ROOT / top).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert missing == set()


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("serve_app/pipeline", {"fastapi", "starlette", "ray", "torch", "funasr"}),
        ("serve_app/rendering", {"fastapi", "starlette", "ray", "torch", "funasr"}),
        ("serve_app/audio", {"fastapi", "starlette", "ray", "torch", "funasr"}),
        ("serve_app/api", {"ray", "torch", "funasr"}),
        ("deployments", {"fastapi", "starlette", "serve_app", "starter", "benchmarks"}),
        ("deployments/engines", {"ray", "serve_app", "deployments"}),
        ("serve_app", {"starter", "benchmarks", "tests"}),
    ],
)
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    allowed = ("deployments.engines",) if package == "deployments/engines" else ()
    wrong = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / package).rglob("*.py")
        for module in imports_of(path)
        if module.split(".")[0] in forbidden and not module.startswith(allowed or "\0")
    }
    assert wrong == set()


def test_the_starter_models_fit_into_the_repository() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "models" / "starter").rglob("*") if path.is_file()]
    assert sum(sizes) <= 50_000_000


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_lists_its_targets() -> None:
    listed = re.findall(r"^  make ([a-z-]+) ", make(), re.MULTILINE)
    assert {"help", "serve", "test", "test-fast", "lint", "types", "bench", "clean"} <= set(listed)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("test", "python -m pytest -n 2 --reruns 1 -r fEsR --dist loadgroup --no-loadscope-reorder"),
        ("test-fast", 'python -m pytest -n auto -m "not server and not slow"'),
        ("test-long", "python -m pytest --reruns 1 -r fEsR tests/test_cluster.py tests/test_rollout.py"),
        ("fuzz", "python -m pytest tests/test_fuzz.py"),
        ("manifests", "python k8s/embed.py"),
        ("images-check", "python -m tests.docker_steps cpu --stand-in"),
        ("lint", "ruff check ."),
        ("types", "mypy"),
        ("bench", "python -m benchmarks.files"),
        ("doctor", "asr-serve doctor"),
        ("constraints", "python -m pip freeze"),
    ],
)
def test_make_targets_run_what_they_say(target: str, command: str) -> None:
    assert f".venv/bin/{command}" in make("--dry-run", target)


def test_make_sets_itself_up(tmp_path: Path) -> None:
    """On a machine without ``.venv``, a target makes one from the pins, and torch from TORCH_INDEX."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    plan = make("--dry-run", "-C", str(tmp_path), "serve", "TORCH_INDEX=http://torch.test/cpu")
    steps = [
        r"python3.11 -m venv .venv",
        r"pip install .*--no-deps --index-url http://torch.test/cpu -c constraints.txt torch",
        r"pip install .*-c constraints.txt -e '\.\[plot,qwen\]'",
        r"asr-serve serve",
    ]
    positions = [re.search(step, plan) for step in steps]
    assert all(positions), plan
    starts = [found.start() for found in positions if found]
    assert starts == sorted(starts)


@pytest.mark.own_server
def test_make_serve_runs_until_ctrl_c(tmp_path: Path) -> None:
    mark, port = uuid.uuid4().hex, free_port("127.0.0.1")
    config = serve_config(tmp_path, "app", "build", "hello")
    # The set-up is taken as done: the tests already run in it.
    done = [f"--old-file=.venv/.installed-{part}" for part in ("torch", "run", "dev")]
    server = subprocess.Popen(
        ["make", *done, "serve", f"CONFIG={config}", f"PORT={port}", "HOST=127.0.0.1"],
        cwd=ROOT,
        env=environment(tmp_path, mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert f"http://127.0.0.1:{port}" in wait_for(server, "Ready on ")
        os.killpg(server.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        output, _ = server.communicate(timeout=60)
        assert server.returncode in (0, -signal.SIGINT, 128 + signal.SIGINT)
        assert "Traceback" not in output
        assert processes_with(mark) == []
    finally:
        server.kill()


def test_the_command_line_client_does_not_load_ray_or_torch() -> None:
    code = "import sys, serve_app.cli.main; print({'ray', 'torch', 'funasr'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
