"""Made-up requests: whatever is sent, the answer is no fault of the server, and nothing is left behind."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from tests import audio_files
from tests.fuzzing import fuzzed_server, share

AUDIO = audio_files.murmur(0.4, 16_000)
RECORDINGS = sorted(audio_files.WRITERS)
ENCODED = {name: audio_files.WRITERS[name](AUDIO, 16_000) for name in RECORDINGS}

UPLOADS = {
    "/v1/audio/transcriptions": "file",
    "/recognition": "audio",
    "/asr": "file",
    "/": "file",
}
BODIES = ["/stream/v1/asr", "/stream/v1/FlashRecognizer"]


@pytest.fixture(scope="module")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files go while these tests run; nothing may be left there at the end of a request."""
    before, directory = tempfile.tempdir, tmp_path_factory.mktemp("temporary")
    tempfile.tempdir = str(directory)
    yield directory
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def url(temp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fuzzed_server(tmp_path_factory.mktemp("data"), max_audio_size="1MB") as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def schema(url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_what_the_schema_allows_and_what_it_forbids(
    schema: schemathesis.BaseSchema, client: httpx.Client, temp: Path
) -> None:
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) > 20
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = [operation.as_strategy(generation_mode=mode) for operation in operations for mode in modes]
    job = client.post("/v1/jobs", files={"file": ("a.wav", ENCODED["wav"])}).json()["id"]

    @share(0.4)
    @given(st.one_of(cases), st.booleans())
    def send(case: Case[Any], sensible: bool) -> None:
        if sensible:
            make_sensible(case, job)
        response = case.call(timeout=60)
        assert response.status_code < 500, response.text
        assert b"Traceback" not in response.content
        assert left_in(temp) == []

    send()


def make_sensible(case: Case[Any], job: str) -> None:
    """Put a real recording where made-up bytes would never be one, and a job where none would ever be hit."""
    if "job_id" in case.path_parameters and case.method == "GET" and not case.path.endswith("/events"):
        case.path_parameters["job_id"] = job
    body: Any = case.body
    if isinstance(body, dict):
        body |= {name: ENCODED["wav"] for name in ("file", "audio") if name in body}
    elif isinstance(body, bytes):
        case.body = ENCODED["wav"]


@st.composite
def damaged_audio(draw: st.DrawFn) -> bytes:
    """A recording of some format whose begin is overwritten, cut, doubled, or joined with another one."""
    data = bytearray(ENCODED[draw(st.sampled_from(RECORDINGS))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, 512, 1 << 20])))))
        match draw(st.sampled_from(["overwrite", "number", "cut", "insert", "join"])):
            case "overwrite":
                new = draw(st.binary(min_size=1, max_size=8))
                data[place : place + len(new)] = new
            case "number":
                value = draw(st.sampled_from([0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]))
                data[place : place + 4] = value.to_bytes(4, draw(st.sampled_from(["little", "big"])))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=64))
            case "join":
                data += ENCODED[draw(st.sampled_from(RECORDINGS))][place:]
    return bytes(data)


@pytest.mark.parametrize("path", [*UPLOADS, *BODIES])
def test_damaged_recordings(client: httpx.Client, temp: Path, path: str) -> None:
    @share(0.06)
    @given(damaged_audio(), st.sampled_from(["pcm", "wav", "mp3", "opus"]))
    def send(data: bytes, declared: str) -> None:
        if path in UPLOADS:
            response = client.post(path, files={UPLOADS[path]: ("a." + declared, data)})
        else:
            query = {"format": declared, "appkey": "any", "token": "any"}
            response = client.post(path, params=query, content=data)
        assert_answer(response)
        assert left_in(temp) == []

    send()


FIELD = st.sampled_from(["file", "model", "language", "stream", "response_format", "include[]", 'a"b', ""])


@st.composite
def damaged_form(draw: st.DrawFn) -> tuple[bytes, str]:
    """A multipart body with parts of all kinds, and its content type, one of which may be damaged."""
    boundary = draw(st.sampled_from(["x", "-" * 20, "a b", "'", "x" * 80]))
    body = bytearray()
    for _ in range(draw(st.integers(0, 5))):
        name = draw(FIELD)
        file = draw(st.sampled_from(["", '; filename="a.wav"', "; filename*=UTF-8''%ff", '; filename=""']))
        kind = draw(st.sampled_from(["", "Content-Type: audio/wav\r\n", "X: \x00\r\n", "no colon\r\n"]))
        content = ENCODED[RECORDINGS[-1]] if draw(st.booleans()) else draw(st.binary(max_size=40))
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{kind}\r\n'
        body += head.encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    if draw(st.booleans()):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 20))] = draw(st.binary(max_size=20))
    quoted = draw(st.sampled_from([boundary, f'"{boundary}"', "other", ""]))
    return bytes(body), draw(
        st.sampled_from([f"multipart/form-data; boundary={quoted}", "multipart/form-data", "multipart/mixed"])
    )


@pytest.mark.parametrize("path", [*UPLOADS, "/v1/jobs"])
def test_damaged_forms(client: httpx.Client, temp: Path, path: str) -> None:
    @share(0.05)
    @given(damaged_form())
    def send(form: tuple[bytes, str]) -> None:
        body, content_type = form
        response = client.post(path, content=body, headers={"content-type": content_type})
        assert_answer(response)
        assert left_in(temp) == []

    send()


def assert_answer(response: httpx.Response) -> None:
    """A transcript, or an error that the client made, told in JSON."""
    assert response.status_code < 500, response.text
    assert b"Traceback" not in response.content
    if response.status_code >= 400:
        assert json.loads(response.content)


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file()]


def test_the_recordings_are_sound(client: httpx.Client) -> None:
    """Else damaged ones would be refused for another reason than their damage."""
    for data in ENCODED.values():
        response = client.post("/v1/audio/transcriptions", files={"file": ("a", data)})
        assert response.json()["text"]
