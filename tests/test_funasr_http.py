"""FunASR's small HTTP servers: ``/recognition``, ``/asr``, ``/health`` and the upload to ``/``."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.errors import UpstreamLost
from tests import audio_files
from tests.aliyun_world import TEXTS, World, said, world

WAV = audio_files.wav(said(800), 16_000)
SILENCE = audio_files.wav(np.zeros(16_000, np.float32), 16_000)
FIELDS = {"/recognition": "audio", "/asr": "file", "/": "file"}


async def upload(
    here: World, path: str, content: bytes = WAV, data: dict[str, Any] | None = None, **headers: str
) -> httpx.Response:
    files = {FIELDS[path]: ("a.wav", content)}
    return await here.client.post(path, files=files, data=data, headers=headers)


async def test_recognition() -> None:
    async with world() as here:
        assert (await upload(here, "/recognition")).json() == {
            "text": TEXTS[800],
            "sentences": [{"text": TEXTS[800], "start": 500, "end": 2500}],
            "code": 0,
        }
        assert (await upload(here, "/recognition", SILENCE)).json() == {
            "text": "",
            "sentences": [],
            "code": 0,
        }


async def test_asr() -> None:
    async with world() as here:
        body = (
            await upload(here, "/asr", data={"hotwords": "你好,再见", "language": "zh", "spk": "true"})
        ).json()
        silent = (await upload(here, "/asr", SILENCE)).json()
    assert body["processing_time"] > 0
    assert body["rtf"] == pytest.approx(body["processing_time"] / 3, abs=1e-3)
    times = [0.5, 1.0, 1.5, 2.0, 2.5]
    assert body == {
        "text": TEXTS[800],
        "segments": [
            {
                "text": TEXTS[800],
                "start": 0.5,
                "end": 2.5,
                "words": [
                    {"word": word, "start": begin, "end": end}
                    for word, begin, end in zip("喂你好吗", times, times[1:], strict=False)
                ],
                "speaker": 0,
                "spk_name": "说话人1",
                "spk_score": 1.0,
            }
        ],
        "duration": 3.0,
        "processing_time": body["processing_time"],
        "rtf": body["rtf"],
        "hotwords": {
            "applied": [],
            "ignored": [
                {"text": word, "reason": "The model paraformer-starter has no hotwords."}
                for word in ("你好", "再见")
            ],
        },
    }
    assert "hotwords" not in silent
    assert (silent["text"], silent["segments"], silent["duration"]) == ("", [], 1.0)


@pytest.mark.parametrize("path", FIELDS)
async def test_numbers_are_in_digits(path: str) -> None:
    async with world() as here:
        body = (await upload(here, path, audio_files.wav(said(1600), 16_000))).json()
    assert body["text"] == "嗯5%。"


async def test_corrections() -> None:
    data = {"hotwords": "百分,嗯=>", "corrections": ["5%=>6%"]}
    async with world() as here:
        body = (await upload(here, "/asr", audio_files.wav(said(1600), 16_000), data)).json()
    assert body["text"] == "6%。"


async def test_the_upload_to_the_root_gets_the_offline_reply() -> None:
    async with world() as here:
        body = (await upload(here, "/")).json()
    pairs = [[500, 1000], [1000, 1500], [1500, 2000], [2000, 2500]]
    assert json.loads(body.pop("timestamp")) == pairs
    assert body == {
        "mode": "offline",
        "text": TEXTS[800],
        "wav_name": "wav-default-id",
        "is_final": False,
        "stamp_sents": [
            {"text_seg": "喂", "punc": "，", "start": 500, "end": 1000, "ts_list": pairs[:1]},
            {"text_seg": "你 好 吗", "punc": "？", "start": 1000, "end": 2500, "ts_list": pairs[1:]},
        ],
    }


@pytest.mark.parametrize("ready", [True, False])
async def test_health(ready: bool) -> None:
    async with world(device="cpu", api_key="key") as here:
        for name in ("Paraformer", "Qwen3ASR"):
            here.states[name] = "READY" if ready else "UPDATING"
        response = await here.client.get("/health")
    assert response.status_code == (200 if ready else 503)
    assert response.json() == {
        "status": "ok" if ready else "not ready",
        "device": "cpu",
        "models_loaded": ["paraformer-starter", "qwen3-asr-starter"] if ready else [],
    }


def shape(path: str, message: str, *, unreadable: bool = False) -> dict[str, Any]:
    """What an error looks like at ``path``."""
    if path == "/recognition":
        head = {"msg": "读取音频文件发生错误", "code": 1} if unreadable else {"msg": "未知错误", "code": -1}
        return {**head, "detail": message}
    if path == "/asr":
        return {"detail": message}
    return {"mode": "offline", "text": "", "is_final": True, "error": message}


NOT_AUDIO = "The file is not audio: its content looks like text."


@pytest.mark.parametrize("path", FIELDS)
async def test_errors_have_the_shapes_of_each(path: str) -> None:
    async with world(max_concurrent_files=1) as here:
        unreadable = await upload(here, path, b"no audio at all")
        assert unreadable.json() == shape(path, NOT_AUDIO, unreadable=True)
        assert unreadable.status_code == (200 if path == "/recognition" else 400)
        missing = await here.client.post(path, files={"other": WAV})
        message = f"The form field {FIELDS[path]!r} with the audio file is missing."
        assert (missing.status_code, missing.json()) == (400, shape(path, message))
        with here.transcriber.admit():
            busy = await upload(here, path)
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        assert busy.json().keys() == shape(path, "").keys()
        here.graph.fault = UpstreamLost("The Vad model was lost.")
        lost = await upload(here, path)
        assert (lost.status_code, lost.json()) == (503, shape(path, "The Vad model was lost."))
        here.graph.fault = RuntimeError("secret")
        fault = await upload(here, path)
        assert fault.status_code == 500
        assert fault.json().keys() == shape(path, "").keys()
        assert "secret" not in fault.text
    async with world(max_audio_size=0.01) as here:
        large = await upload(here, path)
        assert (large.status_code, large.json().keys()) == (413, shape(path, "").keys())
    async with world(api_key="right") as here:
        refused = await upload(here, path)
        assert (refused.status_code, refused.json().keys()) == (401, shape(path, "").keys())
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await upload(here, path, authorization="Bearer right")).status_code == 200


@pytest.mark.parametrize("data", [{"spk": "perhaps"}, {"language": "tlh"}, {"hotwords": "=>x"}])
async def test_fields_that_are_wrong(data: dict[str, str]) -> None:
    async with world() as here:
        response = await upload(here, "/asr", data=data)
    assert response.status_code == 400
    assert response.json()["detail"].endswith(".")
