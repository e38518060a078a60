"""Models are moved in one tar: checked on both sides, and unpacked wholly or not at all."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.model_record import RECORD, read_record
from deployments.model_store import find_model
from serve_app.cli.main import app
from serve_app.settings import Settings
from tests.hub_models import FILES, HF_VAD, PARAFORMER, VAD, isolate, starter_files
from tests.stub_hubs import COMMIT, StubHubs, stub_hubs
from tests.whole_models import write_funasr

runner = CliRunner()


@pytest.fixture(scope="module")
def hubs() -> Iterator[StubHubs]:
    with stub_hubs() as running:
        files = starter_files("fsmn-vad")
        running.models.update({VAD: files, HF_VAD: files, "me/dotted-0.6": files})
        yield running


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hubs: StubHubs) -> Path:
    isolate(monkeypatch, tmp_path / "one", hubs)
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


def run(*arguments: str, code: int = 0, answer: str | None = None) -> str:
    result = runner.invoke(app, ["models", *arguments], input=answer)
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hubs: StubHubs | None = None) -> Path:
    """To another machine."""
    isolate(monkeypatch, tmp_path / "two")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "two").mkdir(exist_ok=True)
    return tmp_path / "two"


def found(reference: str) -> Path:
    return find_model(reference, Settings().modelscope_path)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst", "tgz"])
def test_models_of_both_hubs_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    run("pull", VAD, "me/dotted-0.6")
    run("pull", HF_VAD, "--hub", "huggingface")
    packed = run("pack", VAD, HF_VAD, "me/dotted-0.6", "-o", str(tmp_path / f"m.{suffix}"))
    assert f"fsmn-vad: {len(FILES)} files, 0.9 MB, {VAD}" in packed
    assert not [*tmp_path.glob("*.partial")]
    two = move(monkeypatch, tmp_path)
    output = run("unpack", str(tmp_path / f"m.{suffix}"))
    assert output.count("whole, all hashes match (new here)") == 3
    scope, face = two / ".cache/modelscope/hub/models", two / ".cache/huggingface/hub"
    assert found(VAD) == scope / VAD
    assert found("me/dotted-0.6") == scope / "me" / "dotted-0___6"
    assert found(HF_VAD) == face / "models--funasr--fsmn-vad" / "snapshots" / COMMIT
    for name in FILES:
        assert (found(HF_VAD) / name).read_bytes() == starter_files("fsmn-vad")[name]
    assert read_record(found(VAD)) is not None
    assert not [*scope.glob(".unpacking*"), *face.glob(".unpacking*")]
    assert f"whole, the hashes of {len(FILES)} files match" in run("verify", VAD)
    assert "(in place of what was there)" in run("unpack", str(tmp_path / f"m.{suffix}"))


def test_what_hugging_face_finds_is_what_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", HF_VAD, "--hub", "huggingface")
    run("pack", HF_VAD, "-o", str(tmp_path / "m.tar"))
    two = move(monkeypatch, tmp_path)
    run("unpack", str(tmp_path / "m.tar"))
    from huggingface_hub import snapshot_download

    cache = two / ".cache/huggingface/hub"
    assert Path(snapshot_download(HF_VAD, cache_dir=cache, local_files_only=True)) == found(HF_VAD)


def test_a_tar_goes_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "fsmn-vad")
    command = [sys.executable, "-m", "serve_app.cli.main", "models"]
    packing = subprocess.Popen([*command, "pack", "fsmn-vad", "-o", "-"], stdout=subprocess.PIPE)
    two = move(monkeypatch, tmp_path)
    done = subprocess.run([*command, "unpack", "-"], stdin=packing.stdout, capture_output=True, check=False)
    assert (packing.wait(), done.returncode) == (0, 0), done.stderr
    assert found("fsmn-vad") == two / ".cache/modelscope/hub/models" / VAD


def test_models_may_be_unpacked_into_a_directory(tmp_path: Path) -> None:
    run("pull", "fsmn-vad")
    run("pack", "fsmn-vad", "-o", str(tmp_path / "m.tar"))
    run("unpack", str(tmp_path / "m.tar"), "--local-dir", str(tmp_path / "models"))
    directory = tmp_path / "models" / VAD.partition("/")[2]
    assert found(str(directory)) == directory
    run("pack", str(directory), "-o", str(tmp_path / "again.tar"))
    with tarfile.open(tmp_path / "m.tar") as one, tarfile.open(tmp_path / "again.tar") as two:
        assert [member.name for member in one] == [member.name for member in two]


def test_models_that_other_programs_have_fetched_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    write_funasr(home / ".cache/modelscope/hub" / VAD.replace("iic", "damo"))
    write_funasr(home / ".cache/modelscope/models/me--x/snapshots/master")
    (home / ".cache/modelscope/hub" / VAD.replace("iic", "damo") / "asr_example.wav").touch()
    packed = run("pack", "fsmn-vad", "me/x", "-o", str(tmp_path / "m.tar"))
    assert packed.startswith("fsmn-vad: 2 files, 0.0 MB, damo/speech_fsmn")
    move(monkeypatch, tmp_path)
    run("unpack", str(tmp_path / "m.tar"))
    assert found("fsmn-vad").parent.name == "damo"
    assert found("me/x").name == "x"


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    target = str(tmp_path / "m.tar")
    assert "asr-serve models pull fsmn-vad" in run("pack", "fsmn-vad", "-o", target, code=1)
    assert "need not be packed" in run("pack", "fsmn-vad-starter", "-o", target, code=1)
    own = write_funasr(tmp_path / "own")
    assert "It is not known where" in run("pack", str(own), "-o", target, code=1)
    run("pull", "fsmn-vad")
    assert "must end in .tar" in run("pack", "fsmn-vad", "-o", str(tmp_path / "m.zip"), code=1)
    weights = found("fsmn-vad") / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-30] + bytes(8) + weights.read_bytes()[-22:])
    assert "model.pt is damaged" in run("pack", "fsmn-vad", "-o", target, code=1)
    assert [*tmp_path.glob("m.*")] == []
    (tmp_path / "m.tar").touch()
    assert "is there already" in run("pack", "fsmn-vad", "-o", target, code=1)


def manifest_of(files: dict[str, bytes], **changes: Any) -> bytes:
    listed = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    model = {"name": "x", "hub": "modelscope", "id": "me/x", "revision": "master", "files": listed, **changes}
    return json.dumps({"format": "asr-serve models", "version": 1, "models": [model]}).encode()


def tar_of(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for named, content in members:
            member = tarfile.TarInfo(named) if isinstance(named, str) else named
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


GOOD = {"config.yaml": b"model: X\n", "model.pt": b"\x80\x02weights"}


def good(**changes: Any) -> list[tuple[tarfile.TarInfo | str, bytes]]:
    files: list[tuple[tarfile.TarInfo | str, bytes]] = [("manifest.json", manifest_of(GOOD, **changes))]
    return files + [(f"models/modelscope/me/x/{path}", content) for path, content in GOOD.items()]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def device() -> tarfile.TarInfo:
    member = tarfile.TarInfo("models/modelscope/me/x/model.pt")
    member.type = tarfile.FIFOTYPE
    return member


def long_header() -> bytes:
    """A header that says that a name of 64 MB follows."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    return tar_of(good()[:1])[:-10240] + member.tobuf() + bytes(64 << 20)


M = "models/modelscope/me/x/model.pt"
TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no tar": (lambda: b"no tar at all" * 100, "damaged, or no tar"),
    "empty": (lambda: b"", "does not begin with a manifest.json|no tar"),
    "no manifest": (lambda: tar_of(good()[1:]), "does not begin with a manifest.json"),
    "another manifest": (lambda: tar_of([("manifest.json", b"{}")]), "manifest.json cannot be used: models"),
    "a later version": (
        lambda: tar_of([("manifest.json", manifest_of(GOOD).replace(b'"version": 1', b'"version": 2'))]),
        "cannot be used: version",
    ),
    "a path that leads out": (
        lambda: tar_of([("manifest.json", manifest_of({"../../evil": b"x"}))]),
        "has the name '../../evil', which is refused",
    ),
    "an absolute path": (
        lambda: tar_of([("manifest.json", manifest_of({"/tmp/evil": b"x"}))]),
        "which is refused",
    ),
    "an id that leads out": (lambda: tar_of(good(id="../evil")), "models.0.id"),
    "an id without an owner": (lambda: tar_of(good(id="..")), "models.0.id"),
    "a revision that leads out": (
        lambda: tar_of(good(hub="huggingface", revision="../../evil")),
        "models.0.revision",
    ),
    "two files of one name": (
        lambda: tar_of([("manifest.json", manifest_of({"a": b"x", "A": b"y"}))]),
        "two files of one name",
    ),
    "a member too many": (lambda: tar_of([good()[0], ("evil", b"x"), *good()[1:]]), "holds 'evil', of which"),
    "a member twice": (lambda: tar_of([*good()[:2], *good()[1:]]), "config.yaml', of which"),
    "a link": (lambda: tar_of([*good()[:2], (link(M, "/etc/passwd"), b"")]), "model.pt', of which"),
    "a hard link": (
        lambda: tar_of([*good()[:2], (link(M, "manifest.json", tarfile.LNKTYPE), b"")]),
        "model.pt', of which",
    ),
    "a pipe": (lambda: tar_of([*good()[:2], (device(), b"")]), "model.pt', of which"),
    "a larger member": (lambda: tar_of([*good()[:2], (M, b"x" * 5000)]), "5000 bytes, and should have 9"),
    "another content": (lambda: tar_of([*good()[:2], (M, b"\x80\x02WEIGHTS")]), "model.pt is damaged"),
    "a member that is missing": (lambda: tar_of(good()[:2]), "ends before models/modelscope/me/x/model.pt"),
    "cut off": (lambda: tar_of(good())[:2000], "It is damaged, or no tar|It ends before"),
    "cut off and compressed": (lambda: gzip.compress(tar_of(good()))[:-30], "damaged or cut off|ends before"),
    "a huge header": (lambda: gzip.compress(long_header(), 1), "holds more than its manifest says"),
    "a model that is not whole": (
        lambda: tar_of([("manifest.json", manifest_of({"model.pt": b"\x80\x02"})), (M, b"\x80\x02")]),
        "has no config.yaml",
    ),
    "a manifest of gigabytes": (
        lambda: gzip.compress(tar_of([("manifest.json", bytes(20 << 20))]), 1),
        "does not begin with a manifest.json",
    ),
}


@pytest.mark.parametrize("name", TARS)
def test_other_tars_are_refused_and_leave_nothing(tmp_path: Path, home: Path, name: str) -> None:
    make, message = TARS[name]
    (tmp_path / "m.tar").write_bytes(make())
    before = write_funasr(home / ".cache/modelscope/hub/models/me/x")
    (before / "model.pt").write_bytes(b"\x80\x02before")
    result = runner.invoke(app, ["models", "unpack", str(tmp_path / "m.tar")])
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(" ".join(result.output.split()))
    assert (before / "model.pt").read_bytes() == b"\x80\x02before"
    left = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert left == {f".cache/modelscope/hub/models/me/x/{file}" for file in GOOD}
    assert [*home.rglob(".unpacking*")] == []
    assert [*tmp_path.rglob("evil*")] == []


def test_a_good_tar_of_somebody_else_is_taken(tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(tar_of(good()))
    run("unpack", str(tmp_path / "m.tar"))
    assert (found("me/x") / "model.pt").read_bytes() == GOOD["model.pt"]


def test_a_tar_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "cannot be opened: No such file" in run("unpack", str(tmp_path / "none.tar"), code=1)


def damage_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_within_a_file_is_found_and_mended(home: Path) -> None:
    run("pull", "fsmn-vad")
    weights = found("fsmn-vad") / "model.pt"
    damage_middle(weights)
    output = run("verify", code=1)
    assert f"{weights} is damaged: its content is not what was downloaded" in output
    assert "fsmn-vad-starter: whole, as far as its files tell" in output
    assert "Damaged: 1." in output
    run("pull", "fsmn-vad")
    assert "the hashes of 6 files match" in run("verify")
    weights.unlink()
    assert "has no model.pt" in run("verify", "fsmn-vad", code=1)
    assert "asr-serve models pull ct-punc" in run("verify", "ct-punc", code=1)


def test_downloads_of_hugging_faces_own_client_are_verified(home: Path) -> None:
    run("pull", "fsmn-vad", "--hub", "huggingface")
    directory = found("fsmn-vad")
    (directory / RECORD).unlink()
    assert "the hashes of 6 files match" in run("verify", "fsmn-vad")
    for name in ("model.pt", "configuration.json"):
        damage_middle((directory / name).resolve())
        assert f"{name} is damaged" in run("verify", "fsmn-vad", code=1)
        run("pull", "fsmn-vad", "--hub", "huggingface")
        (directory / RECORD).unlink()


def age(path: Path) -> None:
    hours_ago = time.time() - 10_000
    os.utime(path, (hours_ago, hours_ago))


def test_what_nobody_needs_is_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "fsmn-vad", "me/dotted-0.6")
    run("pull", HF_VAD, "--hub", "huggingface")
    scope, face = home / ".cache/modelscope/hub/models", home / ".cache/huggingface/hub"
    other = write_funasr(face / "models--me--chat" / "snapshots" / "abc")
    repository = face / "models--funasr--fsmn-vad"
    old = repository / "snapshots" / "old"
    old.mkdir()
    (repository / "blobs" / "0000").write_bytes(b"old weights")
    (old / "model.pt").symlink_to(repository / "blobs" / "0000")
    (old / "am.mvn").symlink_to((repository / "snapshots" / COMMIT / "am.mvn").resolve())
    for path in (scope / VAD / "x.incomplete", repository / "blobs" / "y.incomplete"):
        path.touch()
        age(path)
    (repository / "blobs" / "still-coming.incomplete").touch()
    (scope / ".unpacking-x").mkdir()
    age(scope / ".unpacking-x")
    monkeypatch.setenv("VAD_MODEL", HF_VAD)

    asked = run("prune", answer="n\n")
    assert f"{scope / VAD}: no model that is needed (fsmn-vad)" not in asked
    assert "an old revision of funasr/fsmn-vad" in asked
    assert "x.incomplete: a download that was interrupted" in asked
    assert "Nothing was removed" in asked
    assert old.is_dir()
    run("prune", "--yes")
    assert {path.name for path in (repository / "snapshots").iterdir()} == {COMMIT}
    assert {path.name for path in (repository / "blobs").iterdir() if len(path.name) < 40} == {
        "still-coming.incomplete"
    }
    assert not (scope / ".unpacking-x").exists()
    assert found(HF_VAD) == repository / "snapshots" / COMMIT
    assert found(VAD) == scope / VAD

    monkeypatch.delenv("VAD_MODEL")
    assert "There is nothing to remove" in run("prune", "--profile", "cpu", "--yes")
    assert "(fsmn-vad)" in run("prune", "--yes")
    assert not (scope / VAD).exists()
    assert not repository.exists()
    assert found("me/dotted-0.6").is_dir()
    assert found(str(other)) == other
    assert found("models/starter/fsmn-vad").is_dir()
    assert "There is nothing to remove" in run("prune", "--yes")


def test_what_goes_with_an_enabled_model_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = home / ".cache/modelscope/hub/models"
    recognizer, vad = write_funasr(scope / PARAFORMER), write_funasr(scope / VAD)
    unused = write_funasr(scope / "iic" / "SenseVoiceSmall")
    monkeypatch.setenv("ENABLED_MODELS", "paraformer")
    run("prune", "--yes")
    assert recognizer.is_dir()
    assert vad.is_dir()
    assert not unused.exists()
    assert "no profile 'huge'" in run("prune", "--profile", "huge", code=1)


def test_directories_in_the_settings_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "fsmn-vad")
    directory = found("fsmn-vad")
    monkeypatch.setenv("VAD_MODEL", str(directory))
    assert "There is nothing to remove" in run("prune", "--yes")
    link_to_it = home / "link"
    link_to_it.symlink_to(directory)
    monkeypatch.setenv("VAD_MODEL", str(link_to_it))
    assert "There is nothing to remove" in run("prune", "--yes")


def test_starter_models_stay_wherever_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "iic").mkdir(parents=True)
    (models / "iic" / VAD.partition("/")[2]).symlink_to(Path("models/starter/fsmn-vad").resolve())
    monkeypatch.setenv("MODELSCOPE_PATH", str(models))
    monkeypatch.setenv("VAD_MODEL", "none-at-all")
    assert "There is nothing to remove" in run("prune", "--yes")
