"""The live benchmark: paced clients against a scripted server, and what is made of what they recorded."""

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from benchmarks import streaming
from benchmarks.funasr_wss import PeerFailed, PeerModels, funasr_server
from benchmarks.live_clients import Clip, Kind, Load, SessionRun, Update, run_load
from benchmarks.live_metrics import (
    Bounds,
    Spread,
    Step,
    emission_delays,
    error_rate,
    lags,
    sessions_carried,
    spoken,
    summarize,
)
from benchmarks.live_report import results_table, step_line, verdict, write_json

STARTER = Path(__file__).parent.parent / "models" / "starter"
CLIPS = (Clip(bytes(2 * 9600), "一二", (0.1, 0.2)), Clip(bytes(2 * 12_000), "三四", (0.1, 0.2)))


@dataclass
class Heard:
    """What one connection got: the first message, the sizes of the packets, the last message."""

    config: dict[str, Any]
    packets: list[int] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)


Answer = Callable[[ServerConnection, Heard], Awaitable[None]]


@dataclass
class Scripted:
    """A server in a thread that speaks the protocol; ``answer`` is what it does at the end of the audio."""

    answer: Answer
    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    open: int = 0

    async def serve(self, socket: ServerConnection) -> None:
        self.open += 1
        heard = Heard(json.loads(await socket.recv()))
        self.heard.append(heard)
        async for message in socket:
            if isinstance(message, str):
                heard.end = json.loads(message)
                await self.answer(socket, heard)
                self.open -= 1
            else:
                heard.packets.append(len(message))
                if len(heard.packets) == 3:
                    await say(socket, "2pass-online", "一")

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process()]


async def say(socket: ServerConnection, mode: str, text: str, **more: object) -> None:
    await socket.send(json.dumps({"mode": mode, "text": text, "is_final": False, **more}))


async def finish(socket: ServerConnection, heard: Heard) -> None:
    await say(socket, "2pass-offline", "一，二。")
    await socket.send(json.dumps({"mode": "2pass", "is_final": True, "is_end": True}))


@contextmanager
def scripted(answer: Answer = finish) -> Iterator[Scripted]:
    server = Scripted(answer)
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def main() -> None:
        protocols = [Subprotocol("binary")]
        async with serve(server.serve, "127.0.0.1", 0, subprotocols=protocols) as running:
            server.url = f"ws://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}/"
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


class TestClients:
    def test_they_say_their_clips_and_record_what_comes(self) -> None:
        with scripted() as server:
            runs = run_load(server.url, CLIPS, Load("2pass", 2, clips_each=2, stagger=0.05))
        assert [(run.clip, run.turn) for run in runs] == [(0, 0), (1, 1), (1, 0), (0, 1)]
        for run in runs:
            assert run.error is None
            assert [(update.kind, update.text) for update in run.updates] == [
                ("partial", "一"),
                ("final", "一，二。"),
            ]
            # Packets leave when they have been spoken: the third one not before 180 ms.
            assert run.updates[0].at >= 0.18
            assert run.ended is not None
            assert run.ended >= run.updates[1].at >= run.seconds
        assert {sum(heard.packets) for heard in server.heard} == {len(clip.pcm) for clip in CLIPS}
        for heard in server.heard:
            assert set(heard.packets[:-1]) == {1920}
            assert heard.config["mode"] == "2pass"
            assert heard.config["chunk_size"] == [0, 10, 5]
            assert heard.end == {"is_speaking": False, "is_end": True}

    def test_a_server_that_hangs_up_is_an_error_and_ends_the_client(self) -> None:
        async def hang_up(socket: ServerConnection, _: Heard) -> None:
            await socket.close()

        with scripted(hang_up) as server:
            (run,) = run_load(server.url, CLIPS[:1], Load("2pass", 1, clips_each=3))
        assert run.ended is None
        assert run.error is not None
        assert "before it acknowledged the end" in run.error
        assert run.text("partial") == "一"

    def test_a_server_that_never_ends_is_given_up(self) -> None:
        async def forget(socket: ServerConnection, heard: Heard) -> None:
            pass

        with scripted(forget) as server:
            (run,) = run_load(server.url, CLIPS[:1], Load("online", 1, patience=0.1))
        assert run.error is not None
        assert run.error.startswith("TimeoutError")

    def test_a_refused_connection_is_an_error(self) -> None:
        (run,) = run_load("ws://127.0.0.1:1/", CLIPS[:1], Load("2pass", 1))
        assert run.error is not None
        assert run.updates == ()

    def test_an_error_in_the_acknowledgment_is_one(self) -> None:
        async def fail(socket: ServerConnection, _: Heard) -> None:
            await socket.send(json.dumps({"is_end": True, "is_final": False, "error": "no model"}))

        with scripted(fail) as server:
            (run,) = run_load(server.url, CLIPS[:1], Load("2pass", 1))
        assert run.error == "no model"


def recorded(
    updates: list[tuple[float, Kind, str]], *, ended: float | None = 11.0, error: str | None = None
) -> SessionRun:
    return SessionRun(0, 0, 10.0, tuple(Update(*update) for update in updates), 0.01, ended, error)


ALONE = recorded([(1.0, "partial", "一"), (2.0, "partial", "二三"), (3.0, "final", "一，二三。")])


class TestMetrics:
    def test_lag_compares_equal_amounts_of_text(self) -> None:
        late = recorded([(1.5, "partial", "一"), (2.7, "partial", "二三"), (3.9, "final", "一二三")])
        assert lags(late, ALONE) == pytest.approx([0.5, 0.7, 0.9])

    def test_lag_of_two_increments_in_one(self) -> None:
        assert lags(recorded([(2.25, "partial", "一二三")]), ALONE) == pytest.approx([0.25])

    def test_more_text_than_alone_is_compared_with_its_end(self) -> None:
        assert lags(recorded([(4.0, "partial", "一二三四")]), ALONE) == pytest.approx([2.0])

    def test_nothing_to_compare_with(self) -> None:
        assert lags(ALONE, recorded([])) == []

    def test_spread(self) -> None:
        assert Spread.of(range(101)) == Spread(50.0, 95.0)
        assert math.isnan(Spread.of([]).p95)

    def test_step(self) -> None:
        runs = [
            recorded([(1.2, "partial", "一"), (3.2, "final", "一二三")], ended=10.5),
            recorded([(1.4, "partial", "一"), (3.4, "final", "一二")], ended=12.5),
            recorded([(1.6, "partial", "一")], ended=None, error="closed"),
        ]
        clips = [Clip(bytes(2), "一二三", (0.4, 0.6, 0.8))]
        step = summarize(3, runs, {0: ALONE}, clips, cores=1.5, random_weights=False)
        assert step.first_update.p50 == pytest.approx(1.4)
        assert step.final_after_stop.p50 == pytest.approx(1.5)
        assert step.lag.p50 == pytest.approx(0.4)
        assert step.emission_delay is not None
        assert step.emission_delay.p50 == pytest.approx(0.9)
        assert step.text == pytest.approx(5 / 6)
        assert step.cer == pytest.approx(1 / 6)
        assert step.errors == ("closed",)
        random = summarize(3, runs, {0: ALONE}, clips, cores=1, random_weights=True)
        assert random.cer is None
        assert random.emission_delay is None

    def test_emission_delay_of_what_was_heard_right(self) -> None:
        run = recorded([(1.0, "partial", "一两"), (2.5, "partial", "三，四"), (3.0, "final", "一二三四")])
        clip = Clip(b"", "一二三四", (0.25, 0.5, 1.5, 2.0))
        assert emission_delays(run, clip) == pytest.approx([0.75, 1.0, 0.5])

    def test_texts_without_marks(self) -> None:
        assert spoken(ALONE) == "一二三"
        assert spoken(recorded([(1, "partial", "a b<unk>"), (2, "partial", "，c")])) == "abc"
        assert error_rate([ALONE], [Clip(b"", "一二四", ())]) == pytest.approx(1 / 3)


def step(sessions: int, *, lag: float = 0.1, final: float = 0.5, text: float = 1.0, error: str = "") -> Step:
    errors = (error,) if error else ()
    return Step(
        sessions, Spread(1, 1), Spread(0.3, final), Spread(0, lag), None, text, 0.04, 0.0, 2.0, errors
    )


class TestCarried:
    @pytest.mark.parametrize(
        "failed",
        [step(8, lag=0.61), step(8, final=2.1), step(8, text=0.9), step(8, error="x"), step(8, lag=math.nan)],
    )
    def test_up_to_the_first_step_that_fails(self, failed: Step) -> None:
        assert sessions_carried([step(16), step(1), failed, step(4)], Bounds()) == 4

    def test_none(self) -> None:
        assert sessions_carried([step(1, lag=1)], Bounds()) == 0

    def test_verdict(self) -> None:
        steps = {"ours": [step(1), step(32)], "peer": [step(1), step(4), step(8, lag=2)], "old": []}
        assert verdict(steps, Bounds(), 4).splitlines() == [
            "ours: 32 sessions, 8 per core",
            "peer: 4 sessions, 1 per core",
            "old: 0 sessions, 0 per core",
            "ours / peer: 8",
            "old carried not even one session",
        ]

    def test_report(self, tmp_path: Path) -> None:
        steps = {"ours": [step(1), step(8, lag=0.7)]}
        assert step_line("ours", steps["ours"][1], Bounds()).endswith("not carried")
        assert results_table("live", steps, Bounds()).row_count == 2
        write_json(tmp_path / "out.json", steps, Bounds(), 4)
        record = json.loads((tmp_path / "out.json").read_text("utf-8"))
        assert record["sessions_carried"] == {"ours": 1}
        assert record["steps"]["ours"][1]["lag"]["p95"] == 0.7


@pytest.mark.slow
def test_the_ladder_ends_with_the_first_step_that_is_not_carried() -> None:
    async def finish_up_to_three(socket: ServerConnection, heard: Heard) -> None:
        if server.open <= 3:
            await finish(socket, heard)
        else:
            await socket.close()

    told: list[int] = []
    ladder = streaming.Ladder("2pass", (2, 5, 9), 1, CLIPS, Bounds(lag=60, final=60), False)
    with scripted(finish_up_to_three) as server:
        steps = streaming.climb(server, ladder, lambda step: told.append(step.sessions))
    assert told == [1, 2, 5]
    assert [step.carried(ladder.bounds) for step in steps] == [True, True, False]
    assert sessions_carried(steps, ladder.bounds) == 2
    assert steps[0].text == steps[1].text == 1
    assert steps[2].errors


def test_a_peer_needs_its_script() -> None:
    import typer

    app = typer.Typer()
    app.command()(streaming.main)
    result = CliRunner().invoke(app, ["--peer", "funasr"])
    assert result.exit_code == 2
    assert "--funasr-server" in result.output


MODELS = PeerModels(STARTER / "ct-punc", STARTER / "paraformer", STARTER / "fsmn-vad", STARTER / "ct-punc")

PEER_SCRIPT = """
import argparse, asyncio, json, websockets
from funasr import AutoModel
parser = argparse.ArgumentParser()
for name in ("host", "device", "certfile", "asr_model", "asr_model_online", "vad_model", "punc_model"):
    parser.add_argument("--" + name)
for name in ("port", "ngpu", "ncpu"):
    parser.add_argument("--" + name, type=int)
args = parser.parse_args()
options = {"ngpu": args.ngpu, "ncpu": args.ncpu, "device": args.device, "disable_pbar": True}
offline = AutoModel(model="paraformer-zh", model_revision="v2.0.4", **options)
vad = AutoModel(model=args.vad_model, model_revision="v2.0.4", **options)
speakers = AutoModel(model="iic/speech_campplus_sv_zh-cn_16k-common", **options)

async def answer(socket):
    async for message in socket:
        if isinstance(message, str) and json.loads(message).get("is_end"):
            try:
                speakers.generate(input=b"")
            except RuntimeError:
                names = [type(model.model).__name__ for model in (offline, vad)]
                await socket.send(json.dumps({"mode": "2pass-offline", "text": " ".join(names)}))
                await socket.send(json.dumps({"is_end": True, "text": str(args.ncpu)}))

async def main():
    async with websockets.serve(answer, args.host, args.port, subprotocols=["binary"]):
        await asyncio.Future()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_peers_script_runs_with_local_models(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(PEER_SCRIPT)
    with funasr_server(script, MODELS, tmp_path / "log", options=["--ncpu", "3"]) as server:
        (run,) = run_load(server.url, CLIPS[:1], Load("2pass", 1))
        (process,) = server.processes()
    assert run.error is None
    assert run.text("final") == "CTTransformer FsmnVADStreaming"
    assert not process.is_running()


@pytest.mark.slow
@pytest.mark.long
def test_a_peer_that_does_not_start(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("raise SystemExit('out of luck')")
    with (
        pytest.raises(PeerFailed, match="out of luck"),
        funasr_server(script, MODELS, tmp_path / "log"),
    ):
        pass
