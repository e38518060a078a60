"""Replicas die, come, go and are replaced under live sessions: every one ends with its full right text."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.live_server import LiveServer, live_server
from deployments.messages import Pcm
from tests.conftest import Sample
from tests.funasr_clients import connected, receive, send_json
from tests.live_speech import RATE, converse, recording, spoken, websocket_url

pytestmark = pytest.mark.own_server

CONFIG = Path("serve_config.yaml")
SESSIONS = 16
APPLIED = "The config was read again and applied."


@dataclass(slots=True)
class Changeable:
    """A server whose config changes while it runs, as docs/configuration.md tells."""

    running: LiveServer
    config: Path

    @property
    def url(self) -> str:
        return websocket_url(self.running.url)

    async def change(self, **values: Any) -> None:
        """Set these of ``ParaformerStreaming``, and wait until its replicas are as they should be."""
        before = self.running.log.read_text().count(APPLIED)
        self.config.write_text(yaml.safe_dump(changed(yaml.safe_load(self.config.read_text()), values)))
        self.running.process.send_signal(signal.SIGHUP)
        await self.until(lambda: self.running.log.read_text().count(APPLIED) > before)

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(1800):
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.1)
        pytest.fail("nothing more happens:\n" + self.running.log.read_text()[-4000:])

    def replicas(self, deployment: str = "ParaformerStreaming") -> set[int]:
        return {process.pid for process in self.running.replicas(deployment)}

    async def kill(self, deployment: str) -> None:
        """SIGKILL its only replica, and wait until there is another one."""
        await self.until(lambda: len(self.replicas(deployment)) == 1)
        (victim,) = self.running.replicas(deployment)
        victim.kill()
        await self.until(lambda: self.replicas(deployment) - {victim.pid})


def changed(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    for deployment in config["applications"][0]["deployments"]:
        if deployment["name"] == "ParaformerStreaming":
            deployment.update(values)
    return config


def deployments() -> list[dict[str, Any]]:
    """As they are delivered."""
    found: list[dict[str, Any]] = yaml.safe_load(CONFIG.read_text())["applications"][0]["deployments"]
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changeable]:
    """One replica of everything else, so that what is counted and what is short is known."""
    directory = tmp_path_factory.mktemp("live-faults")
    config = yaml.safe_load(CONFIG.read_text())
    for deployment in config["applications"][0]["deployments"]:
        deployment.pop("autoscaling_config", None)
        deployment["num_replicas"] = 1
    path = directory / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    # In bf16, what else is in a batch changes the last digits, and now and then a character.
    environment = {"RAY_TMPDIR": "/tmp", "PRECISION": "fp32", "QWEN3_MODEL": "none"}
    with live_server(directory / "server.log", config=path, env=environment) as running:
        yield Changeable(running, path)


@pytest.fixture(autouse=True)
async def as_it_was(server: Changeable) -> AsyncIterator[None]:
    yield
    await server.change(**next(item for item in deployments() if item["name"] == "ParaformerStreaming"))


class Speaker:
    """Says the samples over and over until it is told to stop, and then ends with the last of them."""

    def __init__(
        self, audio: Pcm, mode: str, stop: asyncio.Event, delay: float, config: Mapping[str, Any]
    ) -> None:
        self.audio, self.mode, self.rounds = audio, mode, 0
        self._stop, self._delay, self._config = stop, delay, config

    async def packets(self) -> AsyncIterator[Pcm]:
        await asyncio.sleep(self._delay)
        while not self._stop.is_set() or not self.rounds:
            self.rounds += 1
            async for packet in spoken(self.audio):
                yield packet

    async def run(self, url: str) -> str:
        return (await converse(url, self.packets(), self.mode, **self._config)).text


@contextlib.asynccontextmanager
async def crowd(server: Changeable, samples: list[Sample], **config: Any) -> AsyncIterator[None]:
    """Sessions that speak while the body runs; all of them must be heard as if nothing had happened.

    ``config`` is what they ask for besides.
    """
    stop = asyncio.Event()
    orders = [recording([sample.path for sample in order]) for order in itertools.permutations(samples, 2)]
    kinds = list(itertools.product(orders, ["2pass", "online"]))
    speakers = [
        Speaker(audio, mode, stop, index * 0.11, config)
        for index, (audio, mode) in zip(range(SESSIONS), itertools.cycle(kinds), strict=False)
    ]
    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(speaker.run(server.url)) for speaker in speakers]
        await asyncio.sleep(3)
        yield
        stop.set()
    alone: dict[tuple[int, str, int], str] = {}
    for speaker, run in zip(speakers, runs, strict=True):
        key = (id(speaker.audio), speaker.mode, speaker.rounds)
        if key not in alone:
            whole = np.tile(speaker.audio, speaker.rounds)
            alone[key] = (await converse(server.url, spoken(whole, speed=0), speaker.mode)).text
            assert alone[key]
        assert run.result() == alone[key], (speaker.mode, speaker.rounds)


async def test_killed_replicas(server: Changeable, samples: list[Sample]) -> None:
    async with crowd(server, samples):
        for _ in range(2):
            await server.kill("ParaformerStreaming")
            await asyncio.sleep(5)


@pytest.mark.long
async def test_killed_replicas_of_the_other_models(server: Changeable, samples: list[Sample]) -> None:
    async with crowd(server, samples, enable_speaker_diarization=True):
        for deployment in ("SpeakerEmbedding", "Vad", "Paraformer", "Punctuation"):
            await server.kill(deployment)
        await asyncio.sleep(3)


async def test_more_replicas_and_fewer(server: Changeable, samples: list[Sample]) -> None:
    async with crowd(server, samples):
        await server.change(num_replicas=3)
        await server.until(lambda: len(server.replicas()) == 3)
        await asyncio.sleep(3)
        await server.change(num_replicas=1)
        await server.until(lambda: len(server.replicas()) == 1)
        await asyncio.sleep(3)


async def test_where_no_stream_can_begin_two_passes_still_hear_all_and_one_pass_is_told(
    server: Changeable, samples: list[Sample]
) -> None:
    sample = samples[0]
    await server.change(user_config={"max_streams": 1})
    async with connected(server.url) as holder:
        await send_json(holder, mode="online", audio_fs=RATE, wav_format="pcm", is_speaking=True)
        audio = recording([sample.path, sample.path])
        for packet in np.array_split(audio[: len(audio) // 4], 4):
            await holder.send(packet.tobytes())
        await receive(holder)
        heard = await converse(server.url, spoken(audio[: len(audio) // 2], speed=0), "2pass")
        assert heard.text == sample.written
        assert heard.partials == 0
        with pytest.raises(AssertionError, match="busy"):
            await converse(server.url, spoken(audio, speed=0), "online")
