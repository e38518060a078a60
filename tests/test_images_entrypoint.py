"""What a container runs: docker/entrypoint.sh, with programs that say how they were called."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"

CALLED = '#!/bin/bash\necho "$(basename "$0") $*"\n'
ASR_SERVE = """#!/bin/bash
if [[ "$*" == "models list --here" ]]; then
  for name in $HERE; do printf '%s\\tasr\\n' "$name"; done
else
  echo "asr-serve $*"
  env | grep -E '^(ENABLED_MODELS|MODELSCOPE_PATH)=' | sort
fi
"""
NVIDIA_SMI = """#!/bin/bash
[[ -n $MIB ]] || exit 9
for size in $MIB; do echo "$size"; done
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the programs printed, what the entrypoint said, and the exit status."""

    printed: list[str]
    said: str
    status: int

    @property
    def config(self) -> str:
        found = re.search(r"--config (\S+)", self.printed[0])
        assert found is not None
        return found[1]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, text in {
        "asr-serve": ASR_SERVE,
        "ray": CALLED,
        "serve": CALLED,
        "nvidia-smi": NVIDIA_SMI,
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def run(programs: Path, *arguments: str, **variables: str) -> Outcome:
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "DATA_DIR": str(programs.parent / "data")}
    result = subprocess.run(
        [ENTRYPOINT, *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(result.stdout.splitlines(), result.stderr, result.returncode)


def full_size() -> str:
    """What configs/cpu.yaml names."""
    config = yaml.safe_load((ROOT / "configs" / "cpu.yaml").read_text())
    args = config["applications"][0]["args"]
    return " ".join(value for name, value in args.items() if name.endswith(("_model", "_models")))


@pytest.mark.parametrize("arguments", [(), ("asr-serve", "serve")], ids=["nothing", "the image's command"])
def test_without_models_the_starter_models_answer(programs: Path, arguments: tuple[str, ...]) -> None:
    outcome = run(programs, *arguments, HERE="paraformer-starter")
    assert outcome.printed == ["asr-serve serve --config serve_config.yaml --host 0.0.0.0"]
    assert "not people" in outcome.said


def test_models_of_full_size_that_are_all_there(programs: Path) -> None:
    outcome = run(programs, HERE=full_size())
    assert outcome.config == "configs/cpu.yaml"
    assert "ENABLED_MODELS=paraformer-large" in outcome.printed
    # `auto` in the environment would win over the config's own list.
    assert run(programs, HERE=full_size(), ENABLED_MODELS="auto").printed == outcome.printed


def test_some_models_are_missing(programs: Path) -> None:
    outcome = run(programs, HERE="paraformer-large fsmn-vad ct-punc ct-punc-realtime cam++")
    assert outcome.config == "serve_config.yaml"
    assert "ENABLED_MODELS=paraformer-large" in outcome.printed
    assert "Not on this machine: paraformer-zh-streaming." in outcome.said


def test_what_is_to_be_fetched_need_not_be_there(programs: Path) -> None:
    outcome = run(programs, HERE="", DOWNLOAD_MODELS="true")
    assert outcome.config == "configs/cpu.yaml"
    assert "ENABLED_MODELS=paraformer-large" in outcome.printed


def test_models_by_name_are_left_to_the_service(programs: Path) -> None:
    outcome = run(programs, HERE=full_size(), ENABLED_MODELS="sensevoice-small")
    assert outcome.config == "serve_config.yaml"
    assert "ENABLED_MODELS=sensevoice-small" in outcome.printed


@pytest.mark.parametrize(
    ("mib", "profile"),
    [
        ("15360", "gpu-16g"),  # T4
        ("16376", "gpu-16g"),  # RTX 4080
        ("23034", "gpu-24g"),  # L4
        ("24564", "gpu-24g"),  # RTX 4090
        ("46068", "gpu-24g"),  # L40S
        ("81559", "gpu-80g"),  # H100
        ("24564 24564 24564 24564", "gpu-multi"),
        ("81559 81559", "gpu-80g"),
        ("24564 15360", "gpu-16g"),
    ],
)
def test_the_profile_fits_the_gpus(programs: Path, mib: str, profile: str) -> None:
    outcome = run(programs, ASR_HARDWARE="gpu", MIB=mib)
    assert outcome.config == f"configs/{profile}.yaml"
    assert (ROOT / outcome.config).is_file()


@pytest.mark.parametrize(("mib", "message"), [("", "--gpus all"), ("8192", "8192 MiB")])
def test_gpus_that_are_missing_or_too_small(programs: Path, mib: str, message: str) -> None:
    outcome = run(programs, ASR_HARDWARE="gpu", MIB=mib)
    assert (outcome.status, outcome.printed) == (1, [])
    assert message in outcome.said


def test_a_config_may_be_named(programs: Path, tmp_path: Path) -> None:
    assert run(programs, ASR_CONFIG="gpu-80g", HERE="").config == "configs/gpu-80g.yaml"
    mine = tmp_path / "mine.yaml"
    mine.touch()
    assert run(programs, ASR_CONFIG=str(mine)).config == str(mine)
    assert run(programs, "--config", "configs/cpu.yaml", HERE="").printed == [
        "asr-serve serve --host 0.0.0.0 --config configs/cpu.yaml"
    ]
    outcome = run(programs, ASR_CONFIG="gpu-20g")
    assert outcome.status == 1
    assert "gpu-20g" in outcome.said
    assert "gpu-24g" in outcome.said


def test_options_are_passed_on(programs: Path) -> None:
    outcome = run(programs, "--host", "127.0.0.1", "--no-edge", HERE="")
    assert outcome.printed == ["asr-serve serve --config serve_config.yaml --host 127.0.0.1 --no-edge"]
    assert run(programs, "asr-serve", "serve", "--help").printed == ["asr-serve serve --help"]


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ("asr-serve edge --backends a:8000", "asr-serve edge --backends a:8000"),
        ("edge --backends a:8000", "asr-serve edge --backends a:8000"),
        ("models pull --profile cpu", "asr-serve models pull --profile cpu"),
        ("ray start --head --block", "ray start --head --block"),
        ("serve run serve_config.yaml", "serve run serve_config.yaml"),
        ("bash -c echo\\ hello", "hello"),
    ],
)
def test_other_commands(programs: Path, arguments: str, called: str) -> None:
    words = [word.replace("\\ ", " ") for word in re.split(r"(?<!\\) ", arguments)]
    assert run(programs, *words).printed[0] == called


def test_a_directory_for_data_that_cannot_be_written(programs: Path) -> None:
    outcome = run(programs, HERE="", DATA_DIR="/proc/asr-serve")
    assert (outcome.status, outcome.printed) == (1, [])
    assert "/proc/asr-serve" in outcome.said
    assert "chown" in outcome.said


def test_the_object_store_fits_the_memory_that_is_shared(programs: Path) -> None:
    (programs / "df").write_text("#!/bin/bash\necho Avail\necho $AVAILABLE\n")
    (programs / "df").chmod(0o755)
    name = "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"
    (programs / "asr-serve").write_text(f'#!/bin/bash\necho "${name}"\n')

    def limit(available: int, **variables: str) -> str:
        return run(programs, ENABLED_MODELS="all", AVAILABLE=str(available), **variables).printed[0]

    assert limit(2 * 1024**3) == str(2 * 1024**3 * 9 // 10)
    assert limit(2 * 1024**3, **{name: "123456789"}) == "123456789"
    # Docker's own 64 MB are less than Ray takes: it goes to the disk then, and says so.
    assert limit(64 * 1024**2) == ""
