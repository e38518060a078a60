"""What the documents say is true: examples run, settings are all listed, both READMEs are in step."""

import ast
import importlib
import inspect
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

import deployments
from serve_app.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").iterdir())
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
DOCUMENTS = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

COVERED = {
    "make serve": "test_packaging.py::test_make_serve_runs_until_ctrl_c",
    "make test": "test_packaging.py::test_make_targets_run_what_they_say",
    "make test-fast": "test_packaging.py::test_make_targets_run_what_they_say",
    "make test-long": "test_packaging.py::test_make_targets_run_what_they_say",
    "make test-vllm": "test_gpu_config.py::test_vllm_has_an_environment_of_its_own",
    "make serve GPU=1": "test_gpu_config.py::test_the_config_for_one_gpu_is_served_from_its_own_environment",
    "make serve GPU=1 CONFIG=configs/gpu-16g.yaml": "test_profiles.py::test_it_fits_the_gpus_that_it_is_for",
    ".venv/bin/asr-serve plan --gpu 24GB --streams 50 --files-rtfx 300 --output my-config.yaml": ""
    "test_plan.py::test_the_profile_goes_to_stdout_and_the_table_to_stderr",
    ".venv/bin/asr-serve plan --check configs/multi-node.yaml --gpu 24GB": ""
    "test_plan.py::test_a_config_is_checked_for_gpus_elsewhere",
    "make fuzz": "test_packaging.py::test_make_targets_run_what_they_say",
    "make lint": "test_packaging.py::test_make_targets_run_what_they_say",
    "make types": "test_packaging.py::test_make_targets_run_what_they_say",
    "make bench": "test_packaging.py::test_make_targets_run_what_they_say",
    "make constraints": "test_packaging.py::test_make_targets_run_what_they_say",
    ".venv/bin/python -m starter evaluate all": "test_docs.py::test_starter_commands_parse",
    "EDGE_FUNASR_PORT=10096 make serve": "test_edge_server.py::test_make_serve_starts_the_edge_too",
    "curl -k https://localhost:10095/healthz": "test_edge_server.py::test_make_serve_starts_the_edge_too",
    "curl -s localhost:8405/metrics": "test_edge_server.py::test_make_serve_starts_the_edge_too",
    ".venv/bin/asr-serve edge --backends 10.0.0.7:8000,10.0.0.8:8000": "test_edge_processes.py::"
    "test_the_command_logs_requests_without_keys_and_stops_cleanly",
    ".venv/bin/python -m benchmarks.edge": "test_edge_benchmark.py::test_the_benchmark_compares_ways_in",
    ".venv/bin/asr-serve models export fsmn-vad-starter --quantize": "test_model_export.py::"
    "test_forms_are_compared_and_reported",
    ".venv/bin/asr-serve models export models/starter/ct-punc --quantize --output my-models/ct-punc": ""
    "test_model_export.py::test_the_output_is_named_and_found",
    "VAD_MODEL=fsmn-vad-onnx PUNCTUATION_MODEL=my-models/ct-punc make serve": "test_onnx_punctuation.py::"
    "test_the_deployment_runs_the_form_that_is_asked_for",
    ".venv/bin/python -m benchmarks.autoscale_sim bursts": "test_autoscaling.py::"
    "test_the_commands_make_a_recording_of_a_log_and_compare_policies_on_it",
    ".venv/bin/python -m benchmarks.autoscale_traffic server.log traffic.jsonl": "test_autoscaling.py::"
    "test_the_commands_make_a_recording_of_a_log_and_compare_policies_on_it",
    ".venv/bin/python -m benchmarks.autoscale_sim traffic.jsonl --plot autoscaling.png": ""
    "test_autoscaling.py::test_the_commands_make_a_recording_of_a_log_and_compare_policies_on_it",
    "PARAFORMER_MODEL=models/starter/paraformer-hotwords make serve": "test_models_server.py::"
    "test_several_recognizers_at_once",
    ".venv/bin/ray start --head --node-ip-address 10.0.0.6 --port 6379 --num-cpus 0 "
    "--dashboard-host 127.0.0.1 --node-manager-port 6380 --object-manager-port 6381 "
    "--min-worker-port 20000 --max-worker-port 20999 --metrics-export-port 8080 "
    "--object-store-memory 2000000000": "test_cluster.py::test_replicas_are_where_their_shares_have_room",
    ".venv/bin/ray start --address 10.0.0.6:6379 --node-ip-address 10.0.0.7 --node-manager-port 6380 "
    "--object-manager-port 6381 --min-worker-port 20000 --max-worker-port 20999 --metrics-export-port 8080 "
    "--object-store-memory 2000000000": "test_cluster.py::test_replicas_are_where_their_shares_have_room",
    ".venv/bin/serve deploy configs/multi-node.yaml": "test_cluster.py::"
    "test_replicas_are_where_their_shares_have_room",
    ".venv/bin/serve status": "test_cluster.py::test_replicas_are_where_their_shares_have_room",
    ".venv/bin/asr-serve top": "test_admin.py::test_the_live_server_tells_what_it_does",
    "TRACING=file make serve": "test_tracing_server.py::"
    "test_each_of_many_files_is_one_trace_through_all_processes",
    "TRACING=otlp OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 make serve": "test_tracing.py::"
    "test_spans_go_where_the_standard_variables_say",
    "LOG_FORMAT=json make serve": "test_logs.py::test_no_log_holds_a_key_an_address_or_a_text",
    ".venv/bin/python -m benchmarks.tracing_cost": "test_tracing.py::test_what_tracing_costs_can_be_measured",
    "curl -s localhost:8080/metrics": "test_metrics.py::test_everything_listed_is_exported",
    ".venv/bin/asr-serve dashboards --output k8s/monitoring": "test_dashboards.py::"
    "test_the_command_writes_what_is_checked_in",
    ".venv/bin/python -m benchmarks.rollout": "test_rollout.py::"
    "test_files_and_live_sessions_go_on_while_everything_is_changed",
    "kill -HUP 12345": "test_cli.py::test_a_changed_config_is_applied_while_the_server_runs",
    "cp .env.example .env": "test_images_compose.py::test_values_of_the_example_are_good_and_defaults_if_set",
    "docker compose -f compose.cpu.yaml up -d": "test_images_compose.py::"
    "test_commands_of_the_documents_fit_the_files",
}
"""Commands that no test runs as they stand, with the test that covers what they do."""

RUN_AS_THEY_STAND = {
    "air-gapped.md": "test_air_gapped_docs.py::test_the_commands_run_as_they_stand",
    "openai.md": "test_openai_docs.py::test_the_commands_run_and_print_what_is_shown",
    "add-a-model.md": "test_add_a_model.py::test_the_commands_show_the_model",
    "models.md": "test_catalogue.py::test_the_commands_of_the_document_run_as_they_stand",
    "nls.md": "test_nls_docs.py::test_the_commands_run_and_print_what_is_said",
    "deployment.md": "test_images_compose.py::test_commands_of_the_documents_fit_the_files",
    "kubernetes.md": "test_k8s_docs.py::test_commands_lead_to_what_is_there",
    "speakers.md": "test_speakers_cli.py::test_the_commands_of_the_document_run_as_they_stand",
}
"""Documents of which a test runs every command."""


CLIENTS = [
    ("/v1", "test_openai_sdk.py::test_all_parameters_at_once"),
    ("", "test_realtime_clients.py::test_every_sample_reads_as_from_the_endpoint"),
    ("/ws/v1", "test_nls_docs.py::test_the_commands_run_and_print_what_is_said"),
    ("/stream/v1/asr", "test_aliyun_server.py::test_examples_of_the_document"),
    ("/stream/v1/FlashRecognizer", "test_aliyun_server.py::test_examples_of_the_document"),
    ("host:8000", "test_urls_server.py::test_file_transcription"),
    ("/api-ws/v1/inference", "test_dashscope_server.py::test_the_sdk_recognizes_live_audio"),
    ("/ws/v1/asr/qwen", "test_qwen_server.py::test_every_sample_as_fast_as_possible"),
    (":10095", "test_edge_server.py::test_funasrs_own_client_needs_no_options"),
    ("/recognition", "test_urls_server.py::test_small_servers_of_funasr"),
    ("host:8000", "test_aliyun_server.py::test_the_pieces_are_wired_together"),
    ("10095", "test_funasr_clients.py::test_item_13_xiaozhi"),
    ("-internal.", "test_nls_clients.py::test_xiaozhi_in_auto_mode_never_stops"),
    ("/v1/audio/transcriptions", "test_openai_sdk.py::test_plain_keys_as_people_with_curl_send_them"),
    ("/ws/v1/asr/test", "test_live_page_protocols.py::test_file_to_text"),
    ("/docs", "test_server.py::test_health_and_docs"),
]
"""Rows of the READMEs' table of clients, in order: part of the address, and the test that runs the client."""


def blocks(document: Path) -> list[tuple[str, str]]:
    """``(language, content)`` of each fenced block."""
    return FENCE.findall(document.read_text(encoding="utf-8"))


def transcript(name: str) -> str:
    texts: dict[str, str] = json.loads((ROOT / "samples" / "written.json").read_text(encoding="utf-8"))
    return texts[name]


def without_marks(text: str) -> str:
    return re.sub(r"[，。？！、\s]", "", text)


def says(name: str) -> Callable[[str], bool]:
    """The output is JSON with exactly the text of a sample."""
    return lambda output: bool(json.loads(output)["text"] == transcript(name))


def says_each_word(output: str) -> bool:
    words = json.loads(output)["words"]
    in_order = all(a["start"] <= b["start"] for a, b in itertools.pairwise(words))
    return in_order and "".join(item["word"] for item in words) == without_marks(transcript("home.wav"))


def shows_subtitles(output: str) -> bool:
    shown = [line for line in output.splitlines() if line and "-->" not in line and not line.isdigit()]
    words = [re.sub(r"^\[[^\]]+\] ", "", line) for line in shown]
    told = any(line.startswith("[") for line in shown)
    return told and without_marks("".join(words)) == without_marks(transcript("meeting.wav"))


def shows_who_speaks(output: str) -> bool:
    """Each turn of the conversation begins with the label of its speaker."""
    cues = [cue.splitlines()[2:] for cue in output.strip().split("\n\n")]
    shown = "".join("".join(lines) for lines in cues)
    turns = json.loads((ROOT / "samples" / "conversation.json").read_text(encoding="utf-8"))
    said = "".join(f"[{turn['speaker']}] {turn['text']}" for turn in turns)
    return shown == said


def shows_segments(output: str) -> bool:
    texts = [line.split("  ")[-1] for line in output.splitlines()]
    return len(texts) > 1 and "".join(texts) == transcript("meeting.wav")


def transcribes_all(output: str) -> bool:
    return all(f"samples/{name}: {transcript(name)}" in output for name in ("home.wav", "meeting.wav"))


def shows_partials_and_finals(output: str) -> bool:
    lines = output.splitlines()
    finals = "".join(line.removeprefix("=>  ") for line in lines if line.startswith("=>"))
    return finals == transcript("travel.wav") and sum(line.startswith("...") for line in lines) > 2


def streams_the_text(output: str) -> bool:
    events = [json.loads(line[6:]) for line in output.splitlines() if line.startswith('data: {"type"')]
    deltas = "".join(event.get("delta", "") for event in events)
    return bool(deltas == events[-1]["text"] == transcript("meeting.wav"))


def follows_a_job(output: str) -> bool:
    """Its events, its result as SubRip, and a list with it and those of all samples."""
    events, _, rest = output.partition("\n\n1\n")
    ended = "event: completed\n" in events
    result, _, listed = rest.partition("\njob_")
    jobs = [line.split("\t") for line in f"job_{listed}".splitlines()]
    of_samples = {job[4] for job in jobs if job[1] == "completed"}
    return ended and shows_subtitles("1\n" + result) and {"home.wav", "meeting.wav"} <= of_samples


EXPECTED: dict[str, Callable[[str], bool]] = {
    "transcribe.sh": says("home.wav"),
    "pcm.sh": says("home.wav"),
    "words.sh": says_each_word,
    "subtitles.sh": shows_subtitles,
    "speakers.sh": shows_who_speaks,
    "openai_sdk.py": shows_segments,
    "live.py": shows_partials_and_finals,
    "cli.sh": transcribes_all,
    "stream.sh": streams_the_text,
    "jobs.sh": follows_a_job,
    "health.sh": lambda output: '"ok"' in output and '"ready"' in output,
}


@pytest.mark.server
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example: Path, server_url: str, tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    script = tmp_path / example.name
    script.write_text(example.read_text().replace("localhost:8000", server_url.removeprefix("http://")))
    shell = ["bash", "-euo", "pipefail"]
    result = subprocess.run(
        [*(shell if example.suffix == ".sh" else [sys.executable]), script],
        cwd=tmp_path,
        env={**os.environ, "ASR_SERVE_URL": server_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert EXPECTED[example.name](result.stdout), result.stdout


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readmes_show_the_examples_word_for_word(readme: Path) -> None:
    shown = [content for _, content in blocks(readme)]
    missing = [example.name for example in EXAMPLES if example.read_text() not in shown]
    assert missing == []


def test_every_command_is_run_by_a_test() -> None:
    examples = {example.read_text() for example in EXAMPLES}
    for document in DOCUMENTS:
        for language, content in blocks(document):
            if language == "bash" and content not in examples and document.name not in RUN_AS_THEY_STAND:
                unknown = set(content.strip().splitlines()) - COVERED.keys()
                assert unknown == set(), document.name


def test_the_tests_that_cover_commands_exist() -> None:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    for where in [*COVERED.values(), *RUN_AS_THEY_STAND.values()]:
        file, _, function = where.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_client_of_the_table_is_run_by_a_test(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    table = text.partition("|---|---|---|\n")[2].partition("\n\n")[0]
    addresses = [line.strip("| ").split(" | ")[1].strip() for line in table.splitlines()]
    assert len(addresses) == len(CLIENTS)
    for address, (shown, where) in zip(addresses, CLIENTS, strict=True):
        assert shown in address
        file, _, function = where.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {function}\(", source, re.MULTILINE), where


def test_starter_commands_parse() -> None:
    command = [sys.executable, "-m", "starter", "evaluate", "all", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "held-out" in result.stdout


def row(document: Path, first: str) -> list[str]:
    """The cells of the table row whose first cell is ``first``."""
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| {first} |"):
            return [cell.strip() for cell in line.strip("|").split(" | ")]
    raise AssertionError(f"{document.name} has no row for {first}")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_are_documented_with_their_defaults(readme: Path, name: str) -> None:
    default = Settings.model_fields[name].default
    _, shown, meaning = row(readme, f"`{name.upper()}`")
    assert shown == ("–" if default is None else f"`{default}`")
    assert meaning


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_no_unknown_setting_is_documented(readme: Path) -> None:
    named = set(re.findall(r"^\| `([A-Z0-9_]{4,})` \|", readme.read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {name.upper() for name in Settings.model_fields}


def user_configs() -> list[tuple[str, str, object]]:
    """``(deployment, field, default)`` of what ``user_config`` may hold."""
    found = []
    modules = [f"deployments.{module.name}" for module in pkgutil.iter_modules(deployments.__path__)]
    for module in (*modules, "serve_app.jobs.deployment"):
        loaded = importlib.import_module(module)
        for name, cls in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(cls, BaseModel) and name.endswith("Config") and cls.__module__ == loaded.__name__:
                for field, info in cls.model_fields.items():
                    found.append((name.removesuffix("Config"), field, info.default))
    return found


def test_user_config_is_documented_with_its_defaults() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    configs = user_configs()
    assert len(configs) >= 3
    for deployment, field, default in configs:
        section = text.partition(f"### {deployment}\n")[2].partition("\n### ")[0]
        assert f"| `{field}` | `{default}` |" in section, (deployment, field)


def skeleton(readme: Path) -> list[str]:
    """What the translations of one text share: heading levels, table shapes, the content of code blocks."""
    text = readme.read_text(encoding="utf-8")
    code = [f"```{language}" for language, _ in blocks(readme)]
    kept = [content for language, content in blocks(readme) if language != "mermaid"]
    headings = [found[1] for found in re.finditer(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)]
    rows = [str(line.count(" | ")) for line in text.splitlines() if line.startswith("|")]
    return [*headings, "", *rows, "", *code, "", *kept]


def test_both_readmes_are_in_step() -> None:
    assert skeleton(READMES[0]) == skeleton(READMES[1])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(document: Path) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
