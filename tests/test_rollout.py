"""A running server is changed, and nobody who is served meanwhile notices."""

import asyncio
import copy
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from benchmarks.live_server import LiveServer, live_server
from benchmarks.rollout import Probe, apply, entry, settings, speech
from benchmarks.steady_load import KINDS, SteadyLoad
from serve_app.calls import while_there
from serve_app.cli.rollout import between, making_room
from serve_app.departure import time_until_goodbye
from serve_app.enabled_models import FORMER
from serve_app.errors import UpstreamLost
from tests.conftest import ROOT, SAMPLES
from tests.funasr_clients import Message, connected, send_json, until_closed
from tests.live_speech import RATE, converse, spoken, websocket_url

SMALL = {"QWEN3_MODEL": "none", "SPEAKER_MODEL": "none"}


def starter() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    return document


def schema(document: dict[str, Any]) -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(copy.deepcopy(document))


def models_of(**args: Any) -> ServeDeploySchema:
    """The starter config with other settings, and an entry for the second of two recognizers."""
    document = starter()
    settings(document).update(args)
    entry(document, "Recognizer-paraformer-hotwords-starter")["num_replicas"] = 3
    return schema(document)


BOTH = "paraformer-starter,paraformer-hotwords-starter"


def test_models_that_a_config_drops_stay_until_their_sessions_have_ended() -> None:
    settings(document := starter())["enabled_models"] = "paraformer-starter"
    before, after = models_of(enabled_models=BOTH), schema(document)
    bridge = between(before, after)
    assert bridge is not None
    application = bridge.applications[0]
    assert application.args == {"enabled_models": "paraformer-starter", FORMER: {"enabled_models": BOTH}}
    kept = {item.name: item for item in application.deployments}["Recognizer-paraformer-hotwords-starter"]
    assert kept.num_replicas == 3
    # What comes in the end is the config itself.
    assert FORMER not in after.applications[0].args


def test_a_config_that_drops_no_model_is_applied_at_once() -> None:
    settings(document := starter())["max_queued_jobs"] = 5
    assert between(schema(starter()), schema(document)) is None
    fewer = models_of(enabled_models="paraformer-starter")
    assert between(fewer, models_of(enabled_models=BOTH)) is None


def test_the_graph_keeps_models_of_before_beside_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.app import build

    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    ours = {"enabled_models": "paraformer-starter"}
    app: Any = build({**ours, FORMER: {"enabled_models": BOTH}})
    models = app._bound_deployment.init_args[1]
    names = [node._bound_deployment.name for node in models.former]
    assert names == ["Recognizer-paraformer-hotwords-starter"]
    assert [*models.recognizers] == ["paraformer-starter"]
    alone: Any = build(ours)
    assert alone._bound_deployment.init_args[1].former == ()


def test_where_there_is_no_room_for_a_second_replica_the_old_one_ends_first() -> None:
    document = starter()
    entry(document, "Vad")["max_surge_percent"] = 50
    changed = making_room(schema(document), [("asr", "Vad"), ("asr", "Recognizer-of-its-own"), ("b", "Jobs")])
    found = {item.name: item for item in changed.applications[0].deployments}
    assert found["Vad"].max_surge_percent == found["Recognizer-of-its-own"].max_surge_percent == 0
    assert found["Jobs"] == {item.name: item for item in schema(document).applications[0].deployments}["Jobs"]


async def test_a_call_ends_when_its_deployment_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.calls._LOOK_SECONDS", 0.01)
    there = {"Vad": "READY", "Punctuation": "READY"}
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def states() -> dict[str, str]:
        return there

    call = asyncio.create_task(while_there("Vad", waiting, states))
    await asyncio.sleep(0.1)
    assert not call.done()
    del there["Vad"]
    with pytest.raises(UpstreamLost, match="The Vad model is not available"):
        await call
    assert waiting.cancelled()


@pytest.mark.parametrize(("grace", "seconds"), [(600, 570), (40, 10), (5, 0)])
def test_live_clients_are_told_goodbye_before_they_are_cut_off(grace: float, seconds: float) -> None:
    assert time_until_goodbye(grace) == seconds


class Caller:
    """Asks a small application again and again, and keeps what it said."""

    def __init__(self, url: str) -> None:
        self.told: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self._url = url
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def _call(self) -> None:
        while not self._done.wait(0.02):
            try:
                answer = httpx.get(self._url, timeout=60, trust_env=False)
            except httpx.TransportError as error:
                self.failed.append(repr(error))
                continue
            if answer.status_code == 200:
                self.told.append(answer.json())
            else:
                self.failed.append(f"{answer.status_code} {answer.text}")

    def __enter__(self) -> "Caller":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[tuple[LiveServer, Path, dict[str, Any]]]:
    """An application whose model takes all CPUs of this machine, so that there is no room for a second."""
    cpus = len(os.sched_getaffinity(0))
    model = {"name": "Model", "ray_actor_options": {"num_cpus": cpus}, "max_surge_percent": 100}
    door = {"name": "Door", "ray_actor_options": {"num_cpus": 0}, "max_surge_percent": 100}
    application = {"name": "small", "import_path": "tests.rollout_apps:build", "args": {"word": "one"}}
    document = {"applications": [{**application, "route_prefix": "/", "deployments": [model, door]}]}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    env = {"RAY_SERVE_SLOW_STARTUP_WARNING_S": "2", "PYTHONPATH": str(ROOT)}
    with live_server(tmp_path / "log", config=path, env=env, ready="/") as server:
        yield server, path, document


@pytest.mark.own_server
@pytest.mark.long
def test_a_change_without_room_is_made_and_one_that_fails_is_taken_back(
    small_server: tuple[LiveServer, Path, dict[str, Any]],
) -> None:
    server, path, document = small_server
    args = document["applications"][0]["args"]
    with Caller(server.url) as caller:
        args["word"] = "two"
        assert apply(server, path, document, seconds=120)
        assert "no room for another replica of Model" in server.log.read_text()
        assert httpx.get(server.url, trust_env=False).json()["word"] == "two"
        # With room for a second one, the first serves until the second does.
        document["applications"][0]["deployments"][0]["ray_actor_options"]["num_cpus"] = 0
        args["word"] = "broken"
        assert not apply(server, path, document, seconds=180)
        assert "this model cannot be loaded" in server.log.read_text()
        begin = len(caller.told)
        while len(caller.told) < begin + 20:
            time.sleep(0.1)
    assert caller.failed == []
    assert [told["word"] for told in caller.told[begin:]] == ["two"] * len(caller.told[begin:])


@contextmanager
def _silent_listener(server: LiveServer, audio: bytes) -> Iterator[tuple[list[Message], list[int | None]]]:
    """A live client that said something and stays, until the server closes its connection."""
    messages: list[Message] = []
    codes: list[int | None] = []
    began = threading.Event()

    async def listen() -> None:
        async with connected(server.url.replace("http", "ws", 1) + "/") as socket:
            await send_json(socket, mode="2pass", audio_fs=RATE, is_speaking=True)
            await socket.send(audio)
            began.set()
            heard, code = await until_closed(socket, patience=300)
            messages.extend(heard)
            codes.append(code)

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        assert began.wait(30)
        yield messages, codes
    finally:
        thread.join()


def _pids(server: LiveServer, *names: str) -> dict[str, set[int]]:
    return {name: {process.pid for process in server.replicas(name)} for name in names}


def partials_of_three(server: LiveServer, audio: bytes) -> list[int]:
    """How many partial texts each of three got who spoke at once."""

    async def speak_at_once() -> list[int]:
        samples, url = np.frombuffer(audio, np.int16), websocket_url(server.url)
        heard = await asyncio.gather(*(converse(url, spoken(samples, speed=3)) for _ in range(3)))
        return [one.partials for one in heard]

    return asyncio.run(speak_at_once())


MODELS = ("Vad", "Paraformer", "ParaformerStreaming", "Punctuation")


@pytest.mark.own_server
def test_files_and_live_sessions_go_on_while_everything_is_changed(tmp_path: Path) -> None:
    document = starter()
    # What replicas have for what they have begun: half a minute of it is for goodbyes.
    entry(document, "Ingress")["graceful_shutdown_timeout_s"] = 45
    # As many as there are before and after, however busy the machine is.
    for name in ("Vad", "Paraformer"):
        entry(document, name).pop("autoscaling_config")
        entry(document, name)["num_replicas"] = 1
        entry(document, name)["ray_actor_options"] = {"num_cpus": 0}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    audio = speech(SAMPLES / "travel.wav")
    with live_server(tmp_path / "log", config=path, env=SMALL) as server:
        first = _pids(server, "Ingress", *MODELS)
        with (
            Probe(server.url) as probe,
            _silent_listener(server, audio) as (messages, codes),
            SteadyLoad(server.url, audio, {"file": 1, "funasr": 1, "realtime": 1}) as load,
        ):
            load.wait_for(since=0, seconds=60)

            entry(document, "ParaformerStreaming")["user_config"]["max_streams"] = 300
            entry(document, "Punctuation")["num_replicas"] = 2
            assert apply(server, path, document, seconds=60)
            second = _pids(server, "Ingress", *MODELS)
            grown = second.pop("Punctuation")
            assert len(grown) == 2 > len(first["Punctuation"])
            assert second == {name: first[name] for name in second}

            settings(document)["paraformer_model"] = "models/starter/paraformer-hotwords"
            assert apply(server, path, document, seconds=180)
            third = _pids(server, "Ingress", *MODELS)
            assert all(third[name].isdisjoint({*first[name], *grown}) for name in third)
            served = httpx.get(server.url + "/v1/models", trust_env=False).json()["data"]
            assert "paraformer-hotwords-starter" in [model["id"] for model in served]
            load.wait_for(since=time.monotonic(), seconds=60)

            assert load.errors == []
            assert probe.not_ready == 0
            texts = {kind: {item.text for item in load.outcomes if item.kind == kind} for kind in KINDS}
        assert load.errors == []
        assert all(len(heard) == 1 for heard in texts.values()), texts
        # Who stayed longer than a replica that goes may wait was told so, behind the text.
        said = "".join(item["text"] for item in messages if item.get("mode") == "2pass-offline")
        assert said in texts["funasr"] | texts["file"]
        assert "connect again" in messages[-1]["error"]
        assert codes == [1001]

        assert min(partials_of_three(server, audio)) > 0
        entry(document, "ParaformerStreaming")["user_config"]["max_streams"] = 1
        assert apply(server, path, document, seconds=60)
        # There is room for one who speaks now; the others get their text when the sentence ends.
        partials = partials_of_three(server, audio)
        assert min(partials) == 0 < max(partials)
