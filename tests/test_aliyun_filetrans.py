"""File transcription as Aliyun's SDKs call it: signatures, orders, results, callbacks, errors."""

import base64
import hashlib
import hmac
import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
import pytest

from serve_app.api.aliyun.signature import AccessDenied, sign, verify
from serve_app.errors import Overloaded
from serve_app.jobs.types import JobError, JobSpec, JobStatus
from serve_app.pipeline.finishing import Correction
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.rendering.filetrans import callback_body
from tests.aliyun_world import World, world

KEY = "the-right-key"
LINK = "https://files.test/call.wav"

_BEGUN = [TimedWord(word, 0.34 + at * 0.4, 0.74 + at * 0.4) for at, word in enumerate("北京的天")]
LEFT = Sentence((*_BEGUN, TimedWord("气", 1.94, 2.365, 0.0, "。")))
RIGHT = Sentence((TimedWord("好", 3.5, 3.9, 0.0, "。"),))
RESULT = (Transcript(4.2, "zh", (LEFT,)), Transcript(4.2, "zh", (RIGHT,)))


def signed(method: str, parameters: dict[str, str], key: str = KEY, **changes: str) -> dict[str, str]:
    """``parameters`` signed as clients do it that have no SDK, with the functions of Python's library."""
    full = {
        "AccessKeyId": "any",
        "Format": "JSON",
        "RegionId": "cn-shanghai",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": str(uuid.uuid4()),
        "SignatureVersion": "1.0",
        "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "Version": "2018-08-17",
        **parameters,
        **changes,
    }

    def encoded(text: str) -> str:
        return text.replace("+", "%20").replace("*", "%2A").replace("%7E", "~")

    query = encoded(urlencode(sorted(full.items())))
    text = f"{method}&%2F&{encoded(quote_plus(query))}"
    digest = hmac.new(f"{key}&".encode(), text.encode(), hashlib.sha1).digest()
    return {**full, "Signature": base64.b64encode(digest).decode()}


async def submit(here: World, **task: Any) -> httpx.Response:
    full = {"appkey": "x", "file_link": LINK, "version": "4.0", **task}
    order = {name: value for name, value in full.items() if value is not ...}
    return await here.client.post("/", params={"Action": "SubmitTask"}, data={"Task": json.dumps(order)})


async def result(here: World, task_id: str) -> dict[str, Any]:
    response = await here.client.get("/", params={"Action": "GetTaskResult", "TaskId": task_id})
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", body.pop("RequestId"))
    return body


def test_signatures_are_those_of_the_documentation() -> None:
    parameters = {
        "AccessKeyId": "testid",
        "Action": "DescribeRegions",
        "Format": "XML",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf",
        "SignatureVersion": "1.0",
        "Timestamp": "2016-02-23T12:46:24Z",
        "Version": "2014-05-26",
    }
    signature = "OLeaidS1JvxuMvnyHOwuJ+uX5qY="
    assert sign("testsecret", "GET", parameters) == signature
    now = datetime(2016, 2, 23, 12, 50, tzinfo=UTC)
    given = {**parameters, "Signature": signature}
    assert verify(["other", "testsecret"], "GET", given, now) == "testsecret"
    for method, secrets, when in (
        ("POST", ["testsecret"], now),
        ("GET", ["other"], now),
        ("GET", ["testsecret"], now + timedelta(minutes=15)),
        ("GET", ["testsecret"], now - timedelta(minutes=20)),
    ):
        with pytest.raises(AccessDenied):
            verify(secrets, method, given, when)


async def test_an_order_becomes_a_job() -> None:
    async with world() as here:
        response = await submit(here)
        (job,) = here.jobs.jobs.values()
    body = response.json()
    assert response.status_code == 200
    assert body.pop("RequestId")
    assert body == {"TaskId": job.id, "StatusText": "SUCCESS", "StatusCode": 21050000}
    spec = job.spec
    assert (spec.protocol, spec.url, spec.split_channels, spec.first_channel_only) == (
        *("aliyun", LINK, True, False),
    )
    assert spec.webhook is None
    assert (spec.options.text.itn, spec.options.text.punctuation) == (False, True)


async def test_what_an_order_may_ask_for() -> None:
    async with world() as here:
        await submit(
            here,
            appkey=...,
            first_channel_only=True,
            enable_disfluency=True,
            max_end_silence=600,
            sentence_max_length=20,
            speech_noise_threshold=-0.2,
            vocabulary_id="北京 20 南京=>东京",
            special_word_filter={"filter_with_empty": {"word_list": ["啊"]}},
            enable_callback=True,
            callback_url="https://hooks.test/done",
            auto_split=False,
            customization_id=None,
        )
        (job,) = here.jobs.jobs.values()
    text, options = job.spec.options.text, job.spec.options
    assert job.spec.first_channel_only
    assert (text.itn, text.drop_fillers, text.longest_sentence) == (True, True, 20)
    assert text.corrections == (Correction("南京", "东京"), Correction("啊", ""))
    assert (options.end_silence_ms, options.speech_noise_threshold) == (600, -0.2)
    assert [word.text for word in options.hotwords] == ["北京"]
    assert job.spec.webhook is not None
    assert job.spec.webhook.url == "https://hooks.test/done"
    assert job.spec.extra["callback"] == "aliyun"


@pytest.mark.parametrize("version", ["2018-08-17", "2019-08-23"])
async def test_actions_by_any_method_in_query_or_form(version: str) -> None:
    task = json.dumps({"file_link": LINK})
    parameters = {"Action": "SubmitTask", "Version": version, "Task": task}
    async with world() as here:
        for response in (
            await here.client.get("/", params=parameters),
            await here.client.post("/", params=parameters),
            await here.client.post("/", data=parameters),
        ):
            job_id = response.json()["TaskId"]
            look = {"Action": "GetTaskResult", "Version": version, "TaskId": job_id}
            assert (await here.client.post("/", data=look)).json()["StatusText"] == "QUEUEING"
            assert (await here.client.get("/", params=look)).json()["StatusText"] == "QUEUEING"


async def test_the_states_on_the_way() -> None:
    async with world() as here:
        task_id = (await submit(here)).json()["TaskId"]
        queued = await result(here, task_id)
        here.jobs.change(task_id, JobStatus.RUNNING)
        running = await result(here, task_id)
    assert queued == {"TaskId": task_id, "StatusText": "QUEUEING", "StatusCode": 21050002}
    assert running == {"TaskId": task_id, "StatusText": "RUNNING", "StatusCode": 21050001}


async def test_the_result_in_full() -> None:
    async with world() as here:
        task_id = (await submit(here, enable_words=True)).json()["TaskId"]
        here.jobs.results[task_id] = RESULT
        here.jobs.change(task_id, JobStatus.COMPLETED)
        body = await result(here, task_id)
    created = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1000)
    words = body["Result"].pop("Words")
    assert body == {
        "TaskId": task_id,
        "StatusText": "SUCCESS",
        "StatusCode": 21050000,
        "BizDuration": 4200,
        "RequestTime": created,
        "SolveTime": created + 5000,
        "Result": {
            "Sentences": [
                {
                    "BeginTime": 340,
                    "EndTime": 2365,
                    "SilenceDuration": 0,
                    "Text": "北京的天气。",
                    "ChannelId": 0,
                    "SpeechRate": 177,
                },
                {
                    "BeginTime": 3500,
                    "EndTime": 3900,
                    "SilenceDuration": 3,
                    "Text": "好。",
                    "ChannelId": 1,
                    "SpeechRate": 300,
                },
            ]
        },
    }
    assert words[0] == {"Word": "北", "BeginTime": 340, "EndTime": 740, "ChannelId": 0}
    assert [item["Word"] for item in words] == list("北京的天气好")


async def test_words_only_if_ordered_and_only_in_the_valid_times() -> None:
    windows = [{"begin_time": 700, "end_time": 1600, "channel_id": 0}]
    async with world() as here:
        task_id = (await submit(here, valid_times=windows)).json()["TaskId"]
        here.jobs.results[task_id] = RESULT
        here.jobs.change(task_id, JobStatus.COMPLETED)
        body = await result(here, task_id)
    assert "Words" not in body["Result"]
    assert [item["Text"] for item in body["Result"]["Sentences"]] == ["京的"]


async def test_pauses_are_counted_from_the_sentence_before() -> None:
    early = Sentence((TimedWord("好", 1.5, 2.0, 0.0, "。"),))
    async with world() as here:
        task_id = (await submit(here)).json()["TaskId"]
        here.jobs.results[task_id] = (Transcript(4.2, "zh", (early, *RESULT[1].sentences)),)
        here.jobs.change(task_id, JobStatus.COMPLETED)
        body = await result(here, task_id)
    assert [item["SilenceDuration"] for item in body["Result"]["Sentences"]] == [1, 1]


async def test_jobs_that_came_by_another_api_are_not_tasks() -> None:
    async with world() as here:
        job, _ = await here.jobs.submit("anybody", JobSpec())
        assert (await result(here, job.id))["StatusText"] == "FILE_TRANS_TASK_EXPIRED"


async def test_nobody_spoke() -> None:
    async with world() as here:
        task_id = (await submit(here)).json()["TaskId"]
        here.jobs.results[task_id] = (Transcript(4.2, "zh"),)
        here.jobs.change(task_id, JobStatus.COMPLETED)
        body = await result(here, task_id)
    assert (body["StatusText"], body["StatusCode"]) == ("SUCCESS_WITH_NO_VALID_FRAGMENT", 21050003)
    assert body["Result"] == {"Sentences": []}


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        ("download_failed", "FILE_DOWNLOAD_FAILED", 41050002),
        ("unsupported_format", "FILE_CHECK_FAILED", 41050003),
        ("audio_too_large", "FILE_TOO_LARGE", 41050004),
        ("invalid_audio", "FILE_PARSE_FAILED", 41050006),
        ("invalid_value", "REQUEST_PARAMETER_INVALID", 41050013),
        ("internal_error", "INTERNAL_ERROR", 51050000),
        ("model_unavailable", "INTERNAL_ERROR", 51050000),
    ],
)
async def test_failures_have_aliyuns_names(code: str, text: str, status: int) -> None:
    async with world() as here:
        task_id = (await submit(here)).json()["TaskId"]
        here.jobs.change(task_id, JobStatus.FAILED, JobError(code, "Why it failed."))
        body = await result(here, task_id)
    assert (body["StatusText"], body["StatusCode"], body["Message"]) == (text, status, "Why it failed.")
    assert "Result" not in body


@pytest.mark.parametrize(
    ("task", "text", "status"),
    [
        ({"file_link": ...}, "REQUEST_INVALID_FILE_URL_VALUE", 41050011),
        ({"file_link": "file:///etc/passwd"}, "REQUEST_INVALID_FILE_URL_VALUE", 41050011),
        ({"file_link": "http://[::1"}, "REQUEST_INVALID_FILE_URL_VALUE", 41050011),
        ({"file_link": 7}, "REQUEST_INVALID_FILE_URL_VALUE", 41050011),
        ({"enable_callback": True}, "REQUEST_INVALID_CALLBACK_VALUE", 41050012),
        ({"enable_callback": True, "callback_url": "mail:x"}, "REQUEST_INVALID_CALLBACK_VALUE", 41050012),
        ({"enable_words": "perhaps"}, "REQUEST_PARAMETER_INVALID", 41050013),
        ({"max_end_silence": 9}, "REQUEST_PARAMETER_INVALID", 41050013),
        ({"valid_times": [{"begin_time": 5, "end_time": 4}]}, "REQUEST_PARAMETER_INVALID", 41050013),
        ({"special_word_filter": "x"}, "REQUEST_PARAMETER_INVALID", 41050013),
    ],
)
async def test_orders_that_are_refused(task: dict[str, Any], text: str, status: int) -> None:
    async with world() as here:
        response = await submit(here, **task)
        assert here.jobs.jobs == {}
    body = response.json()
    assert response.status_code == 200
    assert body.keys() == {"TaskId", "RequestId", "StatusText", "StatusCode", "Message"}
    assert (body["TaskId"], body["StatusText"], body["StatusCode"]) == ("", text, status)


@pytest.mark.parametrize("task", ["", "[]", "{", "7", "[" * 100_000])
async def test_a_task_that_is_no_object(task: str) -> None:
    async with world() as here:
        response = await here.client.post("/", data={"Action": "SubmitTask", "Task": task})
    assert response.json()["StatusText"] == "REQUEST_PARAMETER_INVALID"


async def test_tasks_that_are_not_there() -> None:
    async with world() as here:
        body = await result(here, "0" * 32)
    assert (body["StatusText"], body["StatusCode"]) == ("FILE_TRANS_TASK_EXPIRED", 41050010)


def check_pop_error(response: httpx.Response, status: int, code: str) -> None:
    body = response.json()
    assert body.keys() == {"RequestId", "HostId", "Code", "Message"}
    assert (response.status_code, body["Code"], body["HostId"]) == (status, code, "test")
    assert body["Message"].endswith(".")
    assert KEY not in response.text


async def test_who_may_ask() -> None:
    task = json.dumps({"file_link": LINK, "appkey": "x~*+ /中"})
    order = {"Action": "SubmitTask"}
    async with world(api_key=f"another-key, {KEY},") as here:
        client = here.client

        async def post(form: dict[str, str], **headers: str) -> httpx.Response:
            return await client.post("/", data=form, headers=headers)

        # SDKs sign the fields of the form together with the query.
        whole = signed("POST", {**order, "Task": task})
        apart = {name: value for name, value in whole.items() if name != "Task"}
        accepted = [
            await client.post("/", params=apart, data={"Task": task}),
            await post(whole),
            await client.get("/", params=signed("GET", {**order, "Task": task})),
            await post({**order, "Task": task}, authorization=f"Bearer {KEY}"),
            await client.post("/", params={**order, "token": KEY}, data={"Task": task}),
        ]
        ids = [response.json()["TaskId"] for response in accepted]
        look = signed("GET", {"Action": "GetTaskResult", "TaskId": ids[0]})
        assert (await client.get("/", params=look)).json()["StatusText"] == "QUEUEING"
        assert len({here.jobs.jobs[job_id].owner for job_id in ids}) == 1
        check_pop_error(await post({**order, "Task": task}), 403, "MissingAccessKeyId")
        check_pop_error(await post({**order}, authorization="Bearer wrong"), 403, "MissingAccessKeyId")
        for wrong, code in (
            (signed("POST", order, key="wrong"), "SignatureDoesNotMatch"),
            (signed("POST", order, key=""), "SignatureDoesNotMatch"),
            ({**whole, "Task": task + " "}, "SignatureDoesNotMatch"),
            ({**whole, "Signature": "ключ"}, "SignatureDoesNotMatch"),
            (signed("POST", order, Timestamp="2020-01-01T00:00:00Z"), "InvalidTimeStamp.Expired"),
            (signed("POST", order, Timestamp="yesterday"), "InvalidTimeStamp.Format"),
            (signed("POST", order, SignatureMethod="HMAC-MD5"), "InvalidParameter.SignatureMethod"),
        ):
            check_pop_error(await post(wrong), 403, code)


async def test_guesses_of_signatures_are_limited() -> None:
    async with world(api_key=KEY, rate_limit="3/hour") as here:
        guess = signed("GET", {"Action": "GetTaskResult", "TaskId": "x"}, key="guess")
        for _ in range(3):
            check_pop_error(await here.client.get("/", params=guess), 403, "SignatureDoesNotMatch")
        response = await here.client.get("/", params=guess)
        check_pop_error(response, 429, "Throttling.User")
        assert int(response.headers["retry-after"]) > 0


async def test_errors_of_the_call_itself() -> None:
    async with world() as here:
        check_pop_error(await here.client.post("/"), 400, "InvalidParameter")
        check_pop_error(await here.client.get("/?Action=Dance"), 404, "InvalidAction.NotFound")
        check_pop_error(await here.client.get("/?Action=GetTaskResult"), 400, "InvalidParameter")
        long = {"content-type": "application/x-www-form-urlencoded"}
        large = await here.client.post("/", content=b"a=b" * 400_000, headers=long)
        check_pop_error(large, 413, "RequestTooLarge")
        many = await here.client.post("/", content=b"a=b&" * 200, headers=long)
        check_pop_error(many, 400, "InvalidParameter")
        here.jobs.refusal = Overloaded("The queue of jobs is full.", 30)
        response = await submit(here)
        check_pop_error(response, 429, "Throttling.User")
        assert response.headers["retry-after"] == "30"
        here.jobs.refusal = RuntimeError("secret")
        response = await submit(here)
        check_pop_error(response, 500, "InternalError")
        assert "secret" not in response.text


@pytest.mark.parametrize("version", ["4.0", "2.0"])
async def test_callbacks_carry_the_result(version: str) -> None:
    async with world() as here:
        response = await submit(
            here, version=version, enable_words=True, enable_callback=True, callback_url="https://hooks.test/"
        )
        task_id = response.json()["TaskId"]
        job = here.jobs.change(task_id, JobStatus.COMPLETED)
    body = callback_body(job, RESULT)
    if version == "4.0":
        assert (body["TaskId"], body["RequestId"]) == (task_id, response.json()["RequestId"])
        assert body["StatusText"] == "SUCCESS"
        assert body["Result"]["Sentences"][0]["Text"] == "北京的天气。"
    else:
        assert (body["task_id"], body["status_code"], body["biz_duration"]) == (task_id, 21050000, 4200)
        assert body["result"][0]["begin_time"] == 340
        assert body["words"][0] == {"word": "北", "begin_time": 340, "end_time": 740, "channel_id": 0}


async def test_the_root_is_an_index() -> None:
    async with world(api_key=KEY) as here:
        response = await here.client.get("/")
    assert response.status_code == 200
    assert response.json().keys() == {"message", "version", "description", "endpoints"}
