"""The live server through OpenAI's own clients, for Python and for Node, and as people with curl call it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.live_server import LiveServer
from tests.conftest import Sample

pytestmark = pytest.mark.server

NODE_CLIENT = Path(__file__).parent / "node" / "openai_client.mjs"
NODE_PACKAGE = "openai@7.55.0"


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def sample(samples: list[Sample]) -> Sample:
    """A recording with more than one sentence."""
    return next(item for item in samples if item.path.name == "meeting.wav")


def test_a_streamed_answer(client: openai.OpenAI, sample: Sample) -> None:
    stream = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=sample.path, stream=True, include=["logprobs"]
    )
    *deltas, done = list(stream)
    assert [event.type for event in deltas] == ["transcript.text.delta"] * len(deltas)
    assert len(deltas) > 1
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == sample.written
    assert done.type == "transcript.text.done"
    assert done.text == sample.written
    assert "".join(item.token or "" for item in done.logprobs or ()) == sample.written
    # Real probabilities differ from word to word.
    found = {item.logprob for item in done.logprobs or () if item.logprob is not None}
    assert len(found) > 5
    assert all(-20 < value <= 0 for value in found)


def test_diarized_json(client: openai.OpenAI, sample: Sample) -> None:
    result = client.audio.transcriptions.create(
        model="gpt-4o-transcribe-diarize",
        file=sample.path,
        response_format="diarized_json",
        chunking_strategy="auto",
    )
    assert result.text == sample.written
    assert "".join(segment.text for segment in result.segments) == sample.written
    assert {segment.speaker for segment in result.segments} == {"A"}
    events = list(
        client.audio.transcriptions.create(
            model="gpt-4o-transcribe-diarize",
            file=sample.path,
            response_format="diarized_json",
            stream=True,
        )
    )
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert [segment.to_dict() for segment in segments] == [item.to_dict() for item in result.segments]


def test_all_parameters_at_once(client: openai.OpenAI, sample: Sample) -> None:
    result = client.audio.transcriptions.create(
        model="gpt-transcribe",
        file=("upload.wav", sample.path.read_bytes()),
        chunking_strategy={
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
        },
        include=["logprobs"],
        keywords=["ZyntriQix"],
        languages=["zh", "en"],
        known_speaker_names=["agent"],
        known_speaker_references=["data:audio/wav;base64,UklGRg=="],
        prompt="ZyntriQix, Digique Plus",
        temperature=0,
        response_format="json",
    )
    assert result.text == sample.written
    assert result.logprobs
    assert result.languages
    assert result.languages[0].code == "zh"
    assert result.usage
    assert result.usage.type == "duration"


def test_errors_have_code_and_param(client: openai.OpenAI, sample: Sample) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(
            model="x", file=sample.path, chunking_strategy={"type": "server_vad", "threshold": 7}
        )
    assert (caught.value.code, caught.value.param) == ("invalid_value", "chunking_strategy[threshold]")
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model="x", file=b"nonsense", stream=True)
    assert caught.value.code == "invalid_audio"
    deprecated = pytest.warns(DeprecationWarning, match="deprecated")
    with deprecated, pytest.raises(openai.BadRequestError) as caught:
        client.audio.translations.create(model="whisper-1", file=sample.path)
    assert caught.value.code == "unsupported"


def test_a_url_that_may_not_be_fetched(client: openai.OpenAI, server: LiveServer) -> None:
    fields = {"audio_address": server.url + "/healthz"}
    response = httpx.post(server.url + "/v1/audio/transcriptions", data=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "audio_address"


def test_plain_keys_as_people_with_curl_send_them(server: LiveServer, sample: Sample) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    fields = ["stream=true", "include=logprobs", "languages=zh", "languages=en", "chunking_strategy=auto"]
    command = [
        curl,
        "-sNS",
        "-F",
        f"file=@{sample.path}",
        *(part for item in fields for part in ("-F", item)),
    ]
    address = server.url + "/v1/audio/transcriptions"
    output = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    *events, end = [line.removeprefix("data: ") for line in output.splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    assert json.loads(events[-1])["text"] == sample.written
    assert json.loads(events[-1])["languages"] == [{"code": "zh"}]


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which OpenAI's client for Node is installed, with the script that uses it."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    directory = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", NODE_PACKAGE]
    done = subprocess.run(install, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {NODE_PACKAGE}: {done.stderr[-300:]}")
    return Path(shutil.copy(NODE_CLIENT, directory))


def test_the_client_for_node(node_client: Path, server: LiveServer, sample: Sample) -> None:
    command = ["node", str(node_client), server.url + "/v1", str(sample.path)]
    done = subprocess.run(command, cwd=node_client.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got: dict[str, Any] = json.loads(done.stdout)
    formats = got["formats"]
    assert formats["json"]["text"] == formats["verbose_json"]["text"] == sample.written
    assert formats["text"] == sample.written + "\n"
    assert formats["srt"].startswith("1\n00:00:0")
    assert formats["vtt"].startswith("WEBVTT\n")
    assert [segment["speaker"] for segment in formats["diarized_json"]["segments"]].count("A") > 1
    *deltas, end = got["events"]
    assert "".join(event["delta"] for event in deltas) == end["text"] == sample.written
    assert "".join(item["token"] for item in end["logprobs"]) == sample.written
    assert end["languages"] == [{"code": "zh"}]
    assert got["words"]["words"]
    assert got["chunked"]["text"] == sample.written
    assert got["error"] == {
        "kind": "BadRequestError",
        "status": 400,
        "code": "invalid_value",
        "param": "chunking_strategy[threshold]",
    }
    assert got["models"] == ["paraformer-starter", "qwen3-asr-starter"]
