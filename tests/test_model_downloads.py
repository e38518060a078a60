"""Models come from both hubs through their own clients: whole, checked, on from where they were cut off."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.catalogue import load_catalogue
from deployments.model_record import read_record
from deployments.model_store import ModelMissing, find_model
from serve_app.app import build
from serve_app.cli.main import app
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.needs import fetch_missing
from serve_app.model_hub.progress import Lines
from serve_app.model_hub.selection import select
from serve_app.settings import Settings
from tests.hub_models import FILES, HF_VAD, VAD, isolate, starter_files
from tests.stub_hubs import COMMIT, StubHubs, stub_hubs
from tests.whole_models import write_funasr, write_onnx

HUBS = ("modelscope", "huggingface")
runner = CliRunner()


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHubs]:
    with stub_hubs() as running:
        files = starter_files("fsmn-vad")
        running.models.update({VAD: files, HF_VAD: files})
        isolate(monkeypatch, tmp_path, running)
        yield running


def place(home: Path, hub: str) -> Path:
    """Where the model is put."""
    if hub == "modelscope":
        return home / ".cache/modelscope/hub/models" / VAD
    return home / ".cache/huggingface/hub/models--funasr--fsmn-vad/snapshots" / COMMIT


def pulled(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(app, ["models", "pull", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("hub", HUBS)
def test_a_model_comes_with_the_files_that_it_needs(hubs: StubHubs, tmp_path: Path, hub: str) -> None:
    output = pulled("fsmn-vad", "--hub", hub)
    directory = place(tmp_path, hub)
    assert f"fsmn-vad: whole, all hashes match (0.9 MB came): {directory}" in output
    assert sorted(path.name for path in directory.iterdir()) == sorted([".asr-serve.json", *FILES])
    for name in FILES:
        assert (directory / name).read_bytes() == hubs.models[VAD][name]
    record = read_record(directory)
    assert record is not None
    assert (record.hub, record.id) == (hub, VAD if hub == "modelscope" else HF_VAD)
    assert record.files["model.pt"].sha256 == hashlib.sha256(hubs.models[VAD]["model.pt"]).hexdigest()
    assert find_model("fsmn-vad", Settings().modelscope_path) == directory
    hubs.fetched.clear()
    assert "(it was here)" in pulled("fsmn-vad", "--hub", hub)
    assert hubs.fetched == []


@pytest.mark.parametrize("hub", HUBS)
def test_a_connection_that_ends_in_between_is_taken_up_again(
    hubs: StubHubs, tmp_path: Path, hub: str
) -> None:
    hubs.faults.cut["model.pt"] = [300_000]
    pulled("fsmn-vad", "--hub", hub)
    assert (place(tmp_path, hub) / "model.pt").read_bytes() == hubs.models[VAD]["model.pt"]
    asked = hubs.asked("model.pt")
    assert len(asked) == 2
    # The client of Hugging Face writes blocks of 10 MB, and so has nothing yet of a file of this size.
    assert asked == ([0, 300_000] if hub == "modelscope" else [0, 0])


def test_what_an_interrupted_command_has_fetched_is_not_fetched_again(hubs: StubHubs, tmp_path: Path) -> None:
    hubs.faults.stall["model.pt"] = 500_000
    command = [sys.executable, "-m", "serve_app.cli.main", "models", "pull", "fsmn-vad"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert hubs.faults.stalled.wait(60)
    partial = place(tmp_path, "modelscope") / "model.pt.incomplete"
    for _ in range(100):
        if partial.exists() and partial.stat().st_size >= 500_000:
            break
        hubs.faults.released.wait(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "Interrupted. What came so far is kept; the same command goes on with it." in said
    assert "Traceback" not in said
    with pytest.raises(ModelMissing, match=r"has no .*: its download was interrupted"):
        find_model(VAD, Settings().modelscope_path)
    hubs.faults.released.set()
    hubs.fetched.clear()
    pulled("fsmn-vad")
    assert hubs.asked("model.pt") == [500_000]
    assert find_model("fsmn-vad", Settings().modelscope_path) == place(tmp_path, "modelscope")


def test_hugging_face_goes_on_from_what_is_there(hubs: StubHubs, tmp_path: Path) -> None:
    content = hubs.models[HF_VAD]["model.pt"]
    blobs = place(tmp_path, "huggingface").parents[1] / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(content).hexdigest()}.incomplete").write_bytes(content[:400_000])
    pulled("fsmn-vad", "--hub", "huggingface")
    assert hubs.asked("model.pt") == [400_000]
    assert (place(tmp_path, "huggingface") / "model.pt").read_bytes() == content


@pytest.mark.parametrize(
    ("hub", "name"),
    [("modelscope", "am.mvn"), ("huggingface", "model.pt"), ("huggingface", "configuration.json")],
)
def test_damaged_files_are_refused(
    hubs: StubHubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str, name: str
) -> None:
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)
    hubs.faults.corrupt.add(name)
    output = pulled("fsmn-vad", "--hub", hub, code=1)
    assert f"{name} of " in output
    assert "came damaged" in output
    assert not (place(tmp_path, hub) / name).exists()
    with pytest.raises(ModelMissing, match=rf"has no {name}|has not been finished"):
        find_model("fsmn-vad", Settings().modelscope_path)
    hubs.faults.corrupt.clear()
    pulled("fsmn-vad", "--hub", hub)


@pytest.mark.parametrize("hub", HUBS)
def test_files_that_were_damaged_here_are_fetched_again(hubs: StubHubs, tmp_path: Path, hub: str) -> None:
    pulled("fsmn-vad", "--hub", hub)
    weights = place(tmp_path, hub) / "model.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"?")
    hubs.fetched.clear()
    pulled("fsmn-vad", "--hub", hub)
    assert weights.read_bytes() == whole
    assert {path for path, _ in hubs.fetched} == {"model.pt"}


def test_a_copy_in_another_layout_is_completed_where_it_is(hubs: StubHubs, tmp_path: Path) -> None:
    there = tmp_path / ".cache/modelscope/models" / VAD.replace("/", "--") / "snapshots" / "master"
    there.mkdir(parents=True)
    for name in set(FILES) - {"am.mvn"}:
        (there / name).write_bytes(hubs.models[VAD][name])
    pulled(VAD)
    assert hubs.fetched == [("am.mvn", 0)]
    assert find_model("fsmn-vad", Settings().modelscope_path) == there


@pytest.mark.parametrize("hub", HUBS)
def test_one_model_goes_straight_into_a_local_directory(hubs: StubHubs, tmp_path: Path, hub: str) -> None:
    target = tmp_path / "here"
    pulled("fsmn-vad", "--hub", hub, "--local-dir", str(target))
    assert find_model(str(target), tmp_path) == target
    assert (target / "model.pt").read_bytes() == hubs.models[VAD]["model.pt"]
    assert not place(tmp_path, hub).exists()


def test_several_models_go_into_directories_of_their_names(hubs: StubHubs, tmp_path: Path) -> None:
    hubs.models["me/other"] = starter_files("campplus")
    pulled("fsmn-vad", "me/other", "--local-dir", str(tmp_path / "here"))
    assert {path.name for path in (tmp_path / "here").iterdir()} == {VAD.partition("/")[2], "other"}


def test_the_other_hub_is_asked_where_the_first_does_not_answer(
    hubs: StubHubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub_hubs() as gone:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", gone.url)
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    pulled("fsmn-vad")
    assert find_model("fsmn-vad", tmp_path) == place(tmp_path, "huggingface")
    assert "ModelScope does not answer" in pulled("ct-punc-realtime", code=1)


def test_the_older_name_of_a_mirror_is_heeded(hubs: StubHubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hubs.url)
    pulled("fsmn-vad", "--hub", "modelscope")
    assert hubs.asked("model.pt") == [0]


@pytest.mark.parametrize("hub", HUBS)
def test_a_model_that_a_hub_does_not_have_is_told(hubs: StubHubs, hub: str) -> None:
    hubs.models.clear()
    assert "has no model" in pulled("fsmn-vad", "--hub", hub, code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give names of models, or --profile"),
        (("fsmn-vad", "--profile", "cpu"), "Give names of models, or --profile"),
        (("nothing-such",), "There is no model 'nothing-such'"),
        (("../../etc",), "There is no model '../../etc'"),
        (("whisper-large-v3",), "cannot be used: There is no engine for Whisper"),
        (("fsmn-vad-starter",), "comes with the service"),
        (("ct-punc-realtime", "--hub", "huggingface"), "is not known to be on Hugging Face; it is iic/punc"),
        (("eres2netv2", "--onnx"), "is not published as ONNX. `asr-serve models export eres2netv2`"),
        (("--profile", "huge"), "no profile 'huge'; there are: cpu, gpu, gpu-large"),
        (("--profile", "starter"), "come with the service"),
        (("--profile", "enabled"), "The settings name no model that a hub has"),
    ],
)
def test_what_cannot_be_pulled_is_told(hubs: StubHubs, arguments: tuple[str, ...], message: str) -> None:
    assert message in pulled(*arguments, code=1)
    assert hubs.fetched == []


def test_a_repository_that_lacks_a_file_is_refused(hubs: StubHubs) -> None:
    hubs.models[VAD] = {name: content for name, content in hubs.models[VAD].items() if name != "am.mvn"}
    assert "is all here, but cannot be used: The model directory" in pulled("fsmn-vad", code=1)


@pytest.mark.parametrize("name", ["/{home}/evil.pt", "../../evil.pt", "a/../../../evil.pt", "a\\evil.pt"])
def test_files_that_lead_out_of_the_directory_are_not_fetched(
    hubs: StubHubs, tmp_path: Path, name: str
) -> None:
    hubs.models[VAD] = {**hubs.models[VAD], name.format(home=tmp_path): b"x"}
    result = runner.invoke(app, ["models", "pull", "fsmn-vad"])
    assert ("which is refused" in result.output) is (".." not in name)
    assert [*tmp_path.rglob("*evil.pt")] == []


def test_a_disk_that_is_too_small_is_told(
    hubs: StubHubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    assert "needs 1 MB, and 1 MB of the disk are free" in pulled("fsmn-vad", code=1)
    assert hubs.fetched == []


def test_profiles_are_made_of_models_that_can_be_used() -> None:
    from serve_app.model_hub.selection import PROFILE_ALIASES, PROFILES, profile

    catalogue = load_catalogue()
    tasks = {}
    for name in (*PROFILES, *PROFILE_ALIASES):
        chosen = select(profile(name), catalogue)
        assert len(chosen) == len(profile(name))
        entries = [entry for model in chosen if (entry := catalogue.find(model.name)) is not None]
        tasks[name] = {entry.task for entry in entries}
    files_and_live = {"asr", "asr-streaming", "vad", "punctuation", "punctuation-realtime", "speaker"}
    assert tasks["cpu"] == files_and_live
    assert tasks["gpu-16g"] == tasks["gpu-80g"] == files_and_live | {"aligner"}
    assert "qwen3-asr-1.7b" in profile("gpu-80g")
    assert "qwen3-asr-0.6b" in profile("gpu-24g")


def test_a_profile_as_onnx_takes_what_is_published() -> None:
    from serve_app.model_hub.selection import profile

    chosen = select(profile("cpu"), load_catalogue(), onnx=True, if_published=True)
    graphs = {model.name for model in chosen if model.sources[0][1].endswith("onnx")}
    assert {"paraformer-large", "fsmn-vad", "ct-punc"} <= graphs
    assert "cam++" in {model.name for model in chosen} - graphs


def test_ids_that_the_catalogue_does_not_know_are_asked_of_both_hubs() -> None:
    [wanted] = select(["me/mine"], load_catalogue())
    assert wanted.sources == (("modelscope", "me/mine"), ("huggingface", "me/mine"))
    assert select(["fsmn-vad", "FSMN-VAD", VAD], load_catalogue(), "modelscope")[0].sources == (
        ("modelscope", VAD),
    )


def test_the_start_fetches_nothing_unless_told_to(hubs: StubHubs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelMissing, match="DOWNLOAD_MODELS=true"):
        build({"vad_model": "fsmn-vad"})
    assert hubs.fetched == []


def test_the_start_fetches_what_is_missing(
    hubs: StubHubs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build({"vad_model": "fsmn-vad", "download_models": True})
    assert find_model("fsmn-vad", tmp_path) == place(tmp_path, "modelscope")
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "Downloading fsmn-vad from ModelScope: 1 MB."
    assert said.err == ""
    hubs.fetched.clear()
    build({"vad_model": "fsmn-vad", "download_models": True})
    assert hubs.fetched == []


def test_the_start_fetches_graphs_where_graphs_are_to_run(hubs: StubHubs, tmp_path: Path) -> None:
    entry = load_catalogue().find("fsmn-vad")
    assert entry is not None
    write_onnx(tmp_path / "graph")
    graph = (tmp_path / "graph").read_bytes()
    hubs.models[entry.onnx[0]] = {"config.yaml": b"model: X\n", "model_quant.onnx": graph}
    settings = Settings(download_models=True, funasr_engine="onnx")
    pulled("fsmn-vad")
    fetch_missing(["fsmn-vad"], settings)
    assert find_model("fsmn-vad", settings.modelscope_path, prefer_onnx=True).name.endswith("-onnx")
    hubs.models.clear()
    fetch_missing(["fsmn-vad"], settings)


def test_a_start_that_cannot_fetch_a_model_says_so(hubs: StubHubs) -> None:
    hubs.models.clear()
    with pytest.raises(ModelMissing, match=r"fsmn-vad could not be downloaded\. ModelScope has no model"):
        fetch_missing(["fsmn-vad"], Settings(download_models=True))


def test_local_models_are_not_asked_for(hubs: StubHubs, tmp_path: Path) -> None:
    own = write_funasr(tmp_path / "own")
    fetch_missing([str(own), "fsmn-vad-starter", "models/starter/nothing"], Settings(download_models=True))
    assert hubs.fetched == []


def test_the_log_tells_how_far_a_download_is() -> None:
    now, said = 0.0, list[str]()
    lines = Lines(said.append, lambda: now)
    lines.begin("x", "ModelScope", 200_000_000)
    for now in (1.0, 9.0, 11.0, 15.0, 22.0):
        lines.at(int(now) * 5_000_000)
    lines.end()
    assert said == [
        "Downloading x from ModelScope: 200 MB.",
        "Downloading x: 55 of 200 MB.",
        "Downloading x: 110 of 200 MB.",
    ]


def test_nothing_is_fetched_where_hugging_face_is_told_to_be_offline(
    hubs: StubHubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "serve_app.cli.main", "models", "pull", HF_VAD, "--hub", "huggingface"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr


def test_errors_are_the_services_own() -> None:
    with pytest.raises(ModelHubError, match="not known"):
        select(["ct-punc-realtime"], load_catalogue(), "huggingface")
