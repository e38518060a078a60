"""Compose files, .env.example and what documents say of them: in agreement with the images and the code."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serve_app.edge.settings import Address, EdgeSettings
from serve_app.observability.settings import MetricsSettings
from serve_app.settings import Settings
from tests.image_files import (
    COMPOSE_FILES,
    DOCKERFILES,
    ROOT,
    VERSION,
    compose,
    environment,
    last,
)

NOT_OURS = {
    "PATH": "where programs are",
    "HOME": "libraries keep their caches there",
    "PYTHONUNBUFFERED": "Python",
    "PIP_DISABLE_PIP_VERSION_CHECK": "pip",
    "PIP_NO_CACHE_DIR": "pip",
    "PIP_NO_COMPILE": "pip",
    "RAY_USAGE_STATS_ENABLED": "Ray",
    "NVIDIA_VISIBLE_DEVICES": "NVIDIA's container toolkit",
    "NVIDIA_DRIVER_CAPABILITIES": "NVIDIA's container toolkit",
    "MODELSCOPE_CACHE": "ModelScope's client, whose directories models are looked up in",
    "HF_HOME": "Hugging Face's client, likewise",
    "ASR_HARDWARE": "docker/entrypoint.sh",
    "ASR_CONFIG": "docker/entrypoint.sh",
    "VLLM_CACHE_ROOT": "vLLM",
    "REDIS_PASSWORD": "docker/compose.extras.yaml",
    "POSTGRES_PASSWORD": "PostgreSQL's image",
    "POSTGRES_USER": "PostgreSQL's image",
    "POSTGRES_DB": "PostgreSQL's image",
}
"""Variables that are no settings, and whose they are."""

OF_THE_SEEDS = (
    "ENABLED_MODELS API_KEY LOG_LEVEL MAX_AUDIO_SIZE ASR_BATCH_SIZE MAX_SEGMENT_SEC ENABLE_STREAMING_VLLM "
    "MODELSCOPE_PATH HF_HOME ASR_ENABLE_LM ASR_ENABLE_NEARFIELD_FILTER"
)
"""Variables that users of funasr-api's images have in their .env."""


def settings_variables() -> set[str]:
    own = EdgeSettings.model_fields.keys() - {"trusted_proxies", "data_dir"}
    return (
        {name.upper() for name in Settings.model_fields}
        | {f"EDGE_{name.upper()}" for name in own}
        | {f"METRICS_{name.upper()}" for name in MetricsSettings.model_fields}
    )


def example_settings() -> Iterator[tuple[str, str, bool]]:
    """``(variable, value, set)`` of each line of .env.example, those that are commented out included."""
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line):
            yield found[2], found[3], not found[1]


def test_variables_are_settings() -> None:
    known = settings_variables() | NOT_OURS.keys()
    for dockerfile in DOCKERFILES:
        assert environment(dockerfile).keys() - known == set(), dockerfile.name
    for path in COMPOSE_FILES:
        for service in compose(path)["services"].values():
            assert service.get("environment", {}).keys() - known == set(), path.name
    of_compose = set(re.findall(r"\$\{(\w+)", "".join(path.read_text() for path in COMPOSE_FILES)))
    shown = {name for name, _, _ in example_settings()}
    assert shown - known - of_compose == set()
    assert of_compose - shown == set()


def test_the_example_holds_the_variables_of_the_seeds() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert [name for name in OF_THE_SEEDS.split() if name not in text] == []


def test_values_of_the_example_are_good_and_defaults_if_set(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {name.upper(): name for name in Settings.model_fields}
    for name in fields:
        monkeypatch.delenv(name, raising=False)
    defaults = Settings()
    for name, value, is_set in example_settings():
        if name in fields and "<" not in value:
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                settings = Settings()
            if is_set:
                assert getattr(settings, fields[name]) == getattr(defaults, fields[name]), name
    of_compose = "".join(path.read_text() for path in COMPOSE_FILES)
    for name, value, is_set in example_settings():
        if name not in fields and is_set:
            assert f"${{{name}:-{value}}}" in of_compose


def test_ports_and_paths_are_those_of_the_code() -> None:
    edge = EdgeSettings.model_fields
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    main, funasr = config["http_options"]["port"], edge["funasr_port"].default
    metrics = MetricsSettings.model_fields["port"].default
    for dockerfile in DOCKERFILES:
        assert last(dockerfile, "EXPOSE").split() == [
            str(port) for port in (main, funasr, metrics, edge["metrics"].default.port)
        ]
        probe = last(dockerfile, "HEALTHCHECK").partition(" CMD ")[2]
        assert json.loads(probe)[-1] == f"http://127.0.0.1:{main}/readyz"
        assert compose(ROOT / "compose.cpu.yaml")["services"]["asr"]["healthcheck"]["test"] == [
            "CMD",
            *json.loads(probe),
        ]
    assert f"localhost:{main}/readyz" in (ROOT / "docs" / "examples" / "health.sh").read_text()
    published = compose(ROOT / "compose.cpu.yaml")["services"]["asr"]["ports"]
    assert published == [f"17003:{main}", f"10095:{funasr}", f"10096:{funasr}"]


def test_places_in_the_container_are_the_same_everywhere() -> None:
    inside = compose(ROOT / "compose.cpu.yaml")["services"]["asr"]
    for dockerfile in DOCKERFILES:
        places = environment(dockerfile)
        for name in ("DATA_DIR", "MODELSCOPE_PATH", "MODELSCOPE_CACHE", "HF_HOME"):
            assert inside["environment"][name] == places[name]
    assert [volume.rpartition(":")[2] for volume in inside["volumes"]] == ["/models", "/data"]
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text()
    assert f"== {inside['environment']['MODELSCOPE_PATH']} " in entrypoint


def test_compose_files() -> None:
    cpu, gpu, extras = (compose(path) for path in COMPOSE_FILES[1::-1] + COMPOSE_FILES[2:])
    assert cpu["services"]["asr"]["image"] == f"asr-serve:{VERSION}-cpu"
    assert gpu["services"]["asr"]["image"] == f"asr-serve:{VERSION}-gpu"
    assert gpu["services"]["asr"]["extends"] == {"file": "compose.cpu.yaml", "service": "asr"}
    device = gpu["services"]["asr"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", "all", ["gpu"])
    for file in (cpu, gpu):
        dockerfile = file["services"]["asr"]["build"]["dockerfile"]
        assert (ROOT / dockerfile) in DOCKERFILES
        assert all((ROOT / path).is_file() for path in file["include"])
        assert set(file["volumes"]) == {"models", "data"}
    # What is not asked for by a profile is not started.
    assert all(service["profiles"] for service in extras["services"].values())
    assert all(":" in service["image"] for service in extras["services"].values())
    mounted = [
        volume.split(":")[0] for service in extras["services"].values() for volume in service["volumes"]
    ]
    assert [path for path in mounted if "/" in path and not (ROOT / "docker" / path).exists()] == []
    assert {path for path in mounted if "/" not in path} == set(extras["volumes"])
    grace = EdgeSettings.model_fields["grace_sec"].default
    assert int(cpu["services"]["asr"]["stop_grace_period"].removesuffix("s")) > grace


def test_prometheus_asks_where_the_service_exports() -> None:
    config = yaml.safe_load((ROOT / "docker" / "monitoring" / "prometheus.yaml").read_text())
    targets = [job["static_configs"][0]["targets"][0] for job in config["scrape_configs"]]
    metrics = MetricsSettings.model_fields["port"].default
    assert targets == [f"asr:{metrics}", f"asr:{EdgeSettings.model_fields['metrics'].default.port}"]
    shown = {name: value for name, value, _ in example_settings()}
    assert MetricsSettings(host=shown["METRICS_HOST"]).host == "0.0.0.0"
    assert EdgeSettings(metrics=shown["EDGE_METRICS"]).metrics == Address("0.0.0.0", int(targets[1][4:]))


NOT_DOCKERS = {
    "make serve",
    "cp .env.example .env",
    "curl -F file=@samples/home.wav localhost:17003/v1/audio/transcriptions",
    ".venv/bin/python -m tests.docker_steps cpu --stand-in",
}
"""Commands of docs/deployment.md that are covered elsewhere."""


def shown_commands() -> list[str]:
    """Commands of docs/deployment.md, and Docker's of other files."""
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"^```bash\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)).splitlines()
    for path in (
        ROOT / "README.md",
        ROOT / "README.zh.md",
        *DOCKERFILES,
        *COMPOSE_FILES,
        ROOT / ".env.example",
    ):
        lines = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines()]
        commands += [line for line in lines if re.match(r"docker (build|run|compose) ", line)]
    return [re.sub(r"  +.*", "", command) for command in commands]


def test_commands_of_the_documents_fit_the_files() -> None:
    commands = set(shown_commands())
    assert commands >= NOT_DOCKERS
    profiles = {name for item in compose(COMPOSE_FILES[2])["services"].values() for name in item["profiles"]}
    profiles |= {"cpu", "gpu"}  # of `asr-serve models pull`
    for command in commands - NOT_DOCKERS:
        words = shlex.split(command)
        assert words[0] == "docker", command
        pairs = list(itertools.pairwise(words))
        options = {name: [value for first, value in pairs if first == name] for name, _ in pairs}
        assert all((ROOT / path).is_file() for path in options.get("-f", [])), command
        assert {*options.get("--profile", [])} <= profiles, command
        for pair in options.get("--build-arg", []):
            steps = (ROOT / options["-f"][0]).read_text()
            assert f"ARG {pair.partition('=')[0]}" in steps, command
        for pair in options.get("-p", []):
            assert pair.partition(":")[2] in last(DOCKERFILES[0], "EXPOSE").split(), command
        images = {word for word in words if word.startswith("asr-serve:")}
        assert images <= {f"asr-serve:{VERSION}-cpu", f"asr-serve:{VERSION}-gpu"}, command


def test_the_check_without_docker_takes_its_options() -> None:
    command = [sys.executable, "-m", "tests.docker_steps", "cpu", "--stand-in", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--stand-in" in result.stdout


@pytest.mark.parametrize("path", COMPOSE_FILES[:2], ids=lambda path: path.name)
def test_docker_takes_the_compose_files(path: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("Docker with its compose plugin is not installed here")
    command = [docker, "compose", "-f", str(path), "--profile", "*", "config", "--quiet"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
