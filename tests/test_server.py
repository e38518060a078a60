"""The live server as a user meets it: official SDK, curl's wire format, bad input, several clients."""

import concurrent.futures
import difflib
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import openai
import pytest
import soundfile

from benchmarks.live_server import LiveServer
from tests import audio_files
from tests.conftest import Sample

pytestmark = pytest.mark.server

TRANSCRIPTIONS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)


def post(server: LiveServer, data: bytes, name: str = "a.wav", **fields: str) -> httpx.Response:
    return httpx.post(server.url + TRANSCRIPTIONS, files={"file": (name, data)}, data=fields, timeout=120)


def read(sample: Sample) -> tuple[npt.NDArray[np.float32], int]:
    audio, rate = soundfile.read(sample.path, dtype="float32")
    return audio, rate


def test_json_through_the_sdk(client: openai.OpenAI, samples: list[Sample]) -> None:
    for sample in samples:
        with sample.path.open("rb") as file:
            result = client.audio.transcriptions.create(model="whisper-1", file=file)
        assert result.text == sample.written


def test_text_through_the_sdk(client: openai.OpenAI, samples: list[Sample]) -> None:
    result = client.audio.transcriptions.create(
        model="whisper-1", file=samples[0].path, response_format="text"
    )
    assert result == samples[0].written + "\n"


def test_verbose_json_through_the_sdk(client: openai.OpenAI, samples: list[Sample]) -> None:
    sample = samples[-1]
    result = client.audio.transcriptions.create(
        model="whisper-1",
        file=sample.path,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (result.text, result.language) == (sample.written, "zh")
    assert result.words
    assert result.segments
    assert "".join(segment.text for segment in result.segments) == sample.written
    assert "".join(word.word for word in result.words) == re.sub(r"[，。？、]", "", sample.written)
    times = [time for word in result.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= result.duration


@pytest.mark.parametrize(("format_", "arrow"), [("srt", ","), ("vtt", r"\.")])
def test_subtitles_through_the_sdk(
    client: openai.OpenAI, samples: list[Sample], format_: str, arrow: str
) -> None:
    sample = samples[-1]
    body = str(
        client.audio.transcriptions.create(model="x", file=sample.path, response_format=format_)  # type: ignore[call-overload]
    )
    assert body.startswith("WEBVTT" if format_ == "vtt" else "1\n")
    cue = rf"(\d\d:\d\d:\d\d{arrow}\d{{3}}) --> (\d\d:\d\d:\d\d{arrow}\d{{3}})\n(.+(?:\n.+)?)\n"
    cues = re.findall(cue, body + "\n")
    shown = "".join(text.replace("\n", "") for _, _, text in cues)
    assert shown.startswith("[说话人1] ")
    assert shown.replace("[说话人1] ", "") == sample.written
    assert all(begin < end for begin, end, _ in cues)


def test_bytes_without_a_name(client: openai.OpenAI, samples: list[Sample]) -> None:
    result = client.audio.transcriptions.create(model="whisper-1", file=samples[0].path.read_bytes())
    assert result.text == samples[0].written


def test_plain_keys_and_unknown_fields_as_curl_users_send_them(
    server: LiveServer, samples: list[Sample]
) -> None:
    body = post(
        server,
        samples[0].path.read_bytes(),
        response_format="verbose_json",
        timestamp_granularities="word",
        anything="else",
    ).json()
    assert body["words"]


@pytest.mark.parametrize("name", sorted(audio_files.WRITERS))
def test_every_format(server: LiveServer, samples: list[Sample], name: str) -> None:
    audio, rate = read(samples[0])
    response = post(server, audio_files.WRITERS[name](audio, rate), "upload")
    assert response.status_code == 200
    assert similar(response.json()["text"], samples[0].written)


def similar(text: str, expected: str, least: float = 0.8) -> bool:
    """Whether a text lost little: lossy codecs may cost a starter model a character."""
    return difflib.SequenceMatcher(None, text, expected, autojunk=False).ratio() >= least


def test_raw_pcm(server: LiveServer, samples: list[Sample]) -> None:
    audio, rate = read(samples[0])
    response = post(server, audio_files.pcm16(audio), "a.pcm", format="pcm", sample_rate=str(rate))
    assert response.json()["text"] == samples[0].written


def test_silence_is_an_empty_text_and_not_an_error(server: LiveServer) -> None:
    silence = audio_files.wav(np.zeros(48_000, np.float32), 16_000)
    response = post(server, silence)
    assert (response.status_code, response.json()["text"]) == (200, "")


BROKEN: dict[str, Callable[[], bytes]] = {
    "empty body": lambda: b"",
    "no samples": lambda: audio_files.wav(np.zeros(0, np.float32), 16_000),
    "text named wav": lambda: audio_files.TEXT,
    "picture": lambda: audio_files.JPEG,
    "noise": lambda: audio_files.NOISE,
    "truncated mp3": lambda: audio_files.cut(audio_files.mp3(audio_files.murmur(5, 16_000), 16_000)),
    "lying header": lambda: audio_files.lying_wav(60, 2),
    "ten hours declared": lambda: audio_files.lying_wav(36_000, 2),
    "NaN": lambda: audio_files.float_wav(np.full(16_000, np.nan)),
    "10 ms": lambda: audio_files.wav(audio_files.tone(0.01, 16_000), 16_000),
    "video without sound": lambda: audio_files.video(None),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_bad_audio_is_told_and_the_next_request_works(
    server: LiveServer, server_temp: Path, samples: list[Sample], name: str
) -> None:
    response = post(server, BROKEN[name]())
    assert 400 <= response.status_code < 500
    assert_envelope(response)
    assert post(server, samples[0].path.read_bytes()).json()["text"] == samples[0].written
    assert [path for path in server_temp.rglob("*") if path.is_file()] == []


def assert_envelope(response: httpx.Response) -> None:
    body = response.json()
    assert body["error"]["type"]
    message = body["error"]["message"]
    assert message[0].isupper() or message[0] in "'\""
    assert message.endswith(".")
    assert "Traceback" not in response.text
    assert "/site-packages/" not in response.text
    assert body["message"] == message
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "yaml"}, "response_format"),
        ({"timestamp_granularities[]": "phrase"}, "timestamp_granularities"),
        ({"language": "tlh"}, "language"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
    ],
)
def test_bad_parameters_are_named(
    server: LiveServer, samples: list[Sample], fields: dict[str, str], param: str
) -> None:
    response = post(server, samples[0].path.read_bytes(), **fields)
    assert response.status_code == 400
    assert_envelope(response)
    assert response.json()["error"]["param"] == param


def test_a_form_without_a_file(server: LiveServer) -> None:
    response = httpx.post(server.url + TRANSCRIPTIONS, files={"model": (None, "whisper-1")})
    assert response.status_code == 400
    assert_envelope(response)
    assert response.json()["error"]["param"] == "file"


def test_a_body_that_is_no_form(server: LiveServer) -> None:
    response = httpx.post(server.url + TRANSCRIPTIONS, json={"file": "a.wav"})
    assert response.status_code == 400
    assert_envelope(response)


def test_a_file_above_the_limit_is_refused(server: LiveServer, server_temp: Path) -> None:
    response = post(server, bytes(21 * 1024 * 1024))
    assert response.status_code == 413
    assert_envelope(response)
    assert [path for path in server_temp.rglob("*") if path.is_file()] == []


def test_models(client: openai.OpenAI, server: LiveServer) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == ["paraformer-starter", "qwen3-asr-starter"]
    assert client.models.retrieve(listed[0].id).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(("path", "status"), [("/v1/nothing", 404), ("/v1/audio/transcriptions", 405)])
def test_wrong_addresses_get_the_envelope(server: LiveServer, path: str, status: int) -> None:
    response = httpx.get(server.url + path)
    assert response.status_code == status
    assert_envelope(response)


def test_health_and_docs(server: LiveServer) -> None:
    assert httpx.get(server.url + "/healthz").json() == {"status": "ok", "live_sessions": 0}
    ready = httpx.get(server.url + "/readyz").json()
    models = {"Vad", "Paraformer", "ParaformerStreaming", "Punctuation", "SpeakerEmbedding"}
    models |= {"Qwen3ASR", "Qwen3Aligner"}
    assert set(ready["deployments"]) == {"Ingress", "Jobs", *models}
    assert httpx.get(server.url + "/docs").status_code == 200
    schema = httpx.get(server.url + "/openapi.json").json()
    form = schema["paths"][TRANSCRIPTIONS]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert {"file", "response_format", "timestamp_granularities[]"} <= set(form["schema"]["properties"])


def test_eight_clients_at_once_get_what_one_gets(server: LiveServer, samples: list[Sample]) -> None:
    work = [samples[i % len(samples)] for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda s: post(server, s.path.read_bytes()).json()["text"], work))
    assert texts == [sample.written for sample in work]


def test_a_long_recording_of_all_samples(server: LiveServer, samples: list[Sample]) -> None:
    parts = []
    for sample in samples * 6:
        audio, rate = read(sample)
        parts += [audio, np.zeros(int(rate * 4), np.float32)]
    data = audio_files.wav(np.concatenate(parts), 16_000)
    body = post(server, data, response_format="verbose_json").json()
    # Pauses beside a segment move its begin by some milliseconds, which may cost a character.
    assert similar(body["text"], "".join(sample.written for sample in samples) * 6, least=0.97)
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(starts)
    assert body["duration"] == pytest.approx(sum(len(part) for part in parts) / 16_000, abs=0.01)
