"""The images: linted, complete, in agreement with the code. docker_steps.py builds them."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image_files import (
    DOCKERFILES,
    ROOT,
    VERSION,
    last,
    values,
)

PROGRAMS = Path(sys.executable).parent

CODE = ("configs/", "deployments/", "models/starter/", "samples/", "serve_app/")
"""Directories that a running service reads."""


def copied(dockerfile: Path) -> list[str]:
    """What is copied from the project."""
    words = [value.split() for value in values(dockerfile, "COPY") if "--from=" not in value]
    return [source for line in words for source in line[:-1]]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    result = subprocess.run([PROGRAMS / "hadolint", dockerfile], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_shellcheck_finds_nothing() -> None:
    command = [str(PROGRAMS / "shellcheck"), "docker/entrypoint.sh"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_context_is_what_a_service_needs() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    given = {path for path in exclude_paths(str(ROOT), patterns) if (ROOT / path).is_file()}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = set(
        subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    )
    known = {path for path in known if (ROOT / path).is_file()}
    top = {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "serve_config.yaml"}
    top |= {"docker/entrypoint.sh", "docker/gpu.constraints.txt"}
    wanted = top | {path for path in known if path.startswith(CODE)}
    assert given - {"Dockerfile", ".dockerignore"} == wanted
    assert sum((ROOT / path).stat().st_size for path in given) < 100e6


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_everything_copied_is_in_the_context(dockerfile: Path) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    given = exclude_paths(str(ROOT), patterns)
    sources = copied(dockerfile)
    assert [source for source in sources if source not in given or not (ROOT / source).exists()] == []
    assert {f"{source}/" for source in sources} > set(CODE)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_labels_tags_and_users(dockerfile: Path) -> None:
    kind = dockerfile.stem
    assert f'org.opencontainers.image.version="{VERSION}"' in last(dockerfile, "LABEL")
    tags = re.findall(r"asr-serve:[\w.-]+", dockerfile.read_text())
    assert set(tags) == {f"asr-serve:{VERSION}-{kind}"}
    # A number, so that Kubernetes can tell that it is not root's.
    assert last(dockerfile, "USER") == "1000"
    assert "useradd --uid 1000" in dockerfile.read_text()
    assert json.loads(last(dockerfile, "ENTRYPOINT")) == ["tini", "--", "asr-entrypoint"]
    assert json.loads(last(dockerfile, "CMD")) == ["asr-serve", "serve"]
    assert "docker/entrypoint.sh /usr/local/bin/asr-entrypoint" in values(dockerfile, "COPY")
    assert os.access(ROOT / "docker" / "entrypoint.sh", os.X_OK)


def test_both_images_have_the_same_base() -> None:
    cpu, gpu = (
        path.read_text().partition("ARG PYTHON_IMAGE")[2].partition(" AS build")[0] for path in DOCKERFILES
    )
    assert cpu == gpu
    assert cpu
    cpu, gpu = (
        path.read_text().partition("COPY --from=build")[2].partition("LABEL")[0] for path in DOCKERFILES
    )
    assert cpu == gpu
    assert cpu


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_no_compiler_and_no_cache_is_left(dockerfile: Path) -> None:
    stages = re.split(r"^FROM ", dockerfile.read_text(), flags=re.MULTILINE)
    final = "".join(stage for stage in stages if " AS build" not in stage.splitlines()[0])
    assert re.search(r"\b(g\+\+|build-essential|git|curl)\b", re.sub(r"#.*", "", final)) is None
    # Triton compiles on the machine itself.
    assert ("gcc" in re.sub(r"#.*", "", final)) == (dockerfile.stem == "gpu")
    for run in values(dockerfile, "RUN"):
        assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists" in run


def test_what_the_gpu_image_installs_fits_the_project() -> None:
    lines = (ROOT / "docker" / "gpu.constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.findall(r"EXTRAS=(\S+)", DOCKERFILES[1].read_text())[0].split(",")
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in docker/gpu.constraints.txt"
        assert requirement.specifier.contains(version), requirement.name


def test_debian_has_the_packages() -> None:
    release = Path("/etc/os-release")
    if not release.exists() or "VERSION_CODENAME=bookworm" not in release.read_text():
        pytest.skip("only the release of Debian that the images have can tell")
    runs = "\n".join(run for dockerfile in DOCKERFILES for run in values(dockerfile, "RUN"))
    packages = set(" ".join(re.findall(r"--no-install-recommends ([^&]+?)\s+&&", runs)).split())
    assert {"tini", "wget", "gcc"} <= packages
    command = ["apt-cache", "show", "--no-all-versions", *sorted(packages)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not shown:
        pytest.skip("apt has no lists of packages here")
    assert set(re.findall(r"^Package: (\S+)$", shown, re.MULTILINE)) == packages
