"""How many replicas the policies ask for, what they refuse, and the simulator that runs them."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from benchmarks.autoscale_fleet import Machine
from benchmarks.autoscale_sim import IN_FLIGHT, app, ours, percentile, simulate, stock
from benchmarks.autoscale_traffic import (
    Request,
    TrafficError,
    from_log,
    generate,
    read_traffic,
    write_traffic,
)
from deployments.autoscaling import AudioPolicy, IngressPolicy, policy_fault
from deployments.load import IngressLoad, StageLoad
from serve_app.cli.served import NotServable, fit_to_models

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sample:
    timestamp: float
    value: float


@dataclass
class Context:
    """What Serve's controller knows, with what each of its running replicas told last."""

    loads: list[StageLoad | IngressLoad | None] = field(default_factory=list)
    queued: float = 0.0
    target: int | None = None
    now: float = 1000.0
    told: dict[int, float] = field(default_factory=dict)

    @property
    def running_replicas(self) -> list[int]:
        return [*range(len(self.loads))]

    @property
    def target_num_replicas(self) -> int:
        return len(self.loads) if self.target is None else self.target

    @property
    def total_queued_requests(self) -> float:
        return self.queued

    @property
    def current_time(self) -> float:
        return self.now

    @property
    def raw_metrics(self) -> dict[str, dict[int, list[Sample]]]:
        metrics: dict[str, dict[int, list[Sample]]] = {}
        for replica, load in enumerate(self.loads):
            for name, value in (load.numbers() if load else {}).items():
                when = self.told.get(replica, self.now)
                metrics.setdefault(name, {})[replica] = [Sample(when - 1, -1.0), Sample(when, value)]
        return metrics


BUSY = StageLoad(busy=1.0, audio_per_busy_second=20)
IDLE = StageLoad(audio_per_busy_second=20)


def needed(policy: Any, *contexts: Context) -> int:
    """What it says at the last of them; it did not watch before."""
    number = 0
    for context in contexts:
        number, state = policy(context)
        assert state == {}
    return int(number)


def policy(**kwargs: float) -> AudioPolicy:
    return AudioPolicy(**{"hold_seconds": 0, **kwargs})


def waiting(audio_seconds: float, items: int = 1, **values: Any) -> StageLoad:
    work = audio_seconds / 20
    return StageLoad(items, audio_seconds, audio_per_busy_second=20, busy=1.0, drain_seconds=work, **values)


def later(loads: Iterable[StageLoad | None], seconds: float = 1.0, **values: Any) -> tuple[Context, Context]:
    """The policy begins to watch, and looks again: at first it keeps what there is."""
    before, after = Context([*loads]), Context([*loads], **values)
    after.now = before.now + seconds
    return before, after


def test_audio_counts_and_not_requests() -> None:
    many_clips = [waiting(60, items=60), BUSY]
    few_hours = [waiting(3600, items=3), BUSY]
    assert needed(policy(target_busy=1), *later(many_clips)) == 2
    # 180 s of work, of which two replicas do 4 s in time; the rest, in 2 s and the 10 s of a start.
    assert needed(policy(target_busy=1), *later(few_hours)) == 2 + 15


def test_requests_in_front_of_the_replicas_count_as_those_inside() -> None:
    full = [waiting(400, items=20), waiting(400, items=20)]
    inside = needed(policy(), *later(full))
    assert needed(policy(), *later(full, queued=200)) > 3 * inside


def test_before_anything_was_measured_the_expected_speed_holds() -> None:
    unknown = [StageLoad(waiting_items=10, waiting_audio_seconds=1200)]
    slow = needed(policy(expected_speed=10), *later(unknown))
    fast = needed(policy(expected_speed=100), *later(unknown))
    assert slow > 5 > fast == 1
    assert needed(policy(expected_speed=1, expected_item_seconds=60), *later([IDLE], queued=4)) == 1
    assert needed(policy(expected_speed=1, expected_item_seconds=60), *later([StageLoad()], queued=4)) == 20


def test_what_is_busy_stays_and_what_is_idle_goes() -> None:
    assert needed(policy(), *later([BUSY, BUSY, IDLE, IDLE])) == 3
    assert needed(policy(target_busy=1), *later([BUSY, BUSY, IDLE, IDLE])) == 2
    assert needed(policy(), *later([IDLE] * 4)) == 0


def test_sessions_that_lag_add_replicas_and_not_without_end() -> None:
    late = StageLoad(lag_seconds=9, busy=0.5, audio_per_busy_second=20)
    assert needed(policy(), *later([late] * 3, seconds=20)) == 6
    # Replicas that have just started are not seen in what lags: they are waited for.
    assert needed(policy(), *later([late] * 3, seconds=5)) == 3
    near = StageLoad(lag_seconds=0.7, audio_per_busy_second=20)
    assert needed(policy(), *later([near] * 3)) == 3
    assert needed(policy(), *later([late, IDLE, IDLE], seconds=20)) == 4


def test_replicas_that_start_are_not_asked_for_again() -> None:
    scaler = policy(target_busy=1)
    first = needed(scaler, *later([waiting(1000)]))
    assert first > 3
    waits = Context([waiting(1000)], target=first, now=1003)
    assert needed(scaler, waits) == first


def test_how_long_replicas_take_to_start_is_learned() -> None:
    def after_starts_of(seconds: float) -> int:
        scaler, now = policy(target_busy=1), 1000.0
        for count in range(1, 20):
            scaler(Context([BUSY] * count, target=count + 1, now=now))
            now += seconds
            scaler(Context([BUSY] * (count + 1), target=count + 1, now=now))
        return needed(scaler, Context([waiting(4000), BUSY], now=now + 1))

    # The longer a start takes, the more has to wait for it to be worth it.
    assert after_starts_of(2) > after_starts_of(30) > 2


def test_replicas_of_which_nothing_is_known_are_kept() -> None:
    assert needed(policy(), *later([None, None, None])) == 3
    stale = Context([BUSY, IDLE, IDLE], told={1: 900.0})
    assert needed(policy(), stale, stale) == 3
    assert needed(policy(), Context([]), Context([], target=0)) == 0


def test_replicas_are_held_after_they_were_needed() -> None:
    scaler = AudioPolicy(hold_seconds=60)
    assert needed(scaler, Context([BUSY] * 5)) == 7
    assert needed(scaler, Context([IDLE] * 5, now=1059)) == 7
    assert needed(scaler, Context([IDLE] * 5, now=1061)) == 0
    # One that begins to watch does not know what was needed before.
    assert needed(AudioPolicy(hold_seconds=60), Context([IDLE] * 5)) == 5


def test_the_ingress_is_scaled_by_sessions_and_files() -> None:
    def load(sessions: int, files: int = 0) -> IngressLoad:
        return IngressLoad(sessions, 256, files, 64)

    scaler = IngressPolicy(target_share=0.5, hold_seconds=0)
    assert needed(scaler, Context([load(0)])) == 1
    scaler = IngressPolicy(target_share=0.5, hold_seconds=0)
    assert needed(scaler, Context([load(0)]), Context([load(200), load(190)], now=1001)) == 4
    assert needed(scaler, Context([load(10), load(10, files=64)], now=1002)) == 2
    assert needed(scaler, Context([load(10), load(10, files=65)], now=1003)) == 3


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"target_wait_seconds": 0}, "target_wait_seconds has to be above 0"),
        ({"target_busy": 1.5}, "target_busy has to be 1 or less, not 1.5"),
        ({"hold_seconds": "long"}, "hold_seconds has to be a number"),
        ({"target_wait": 3}, "there is no target_wait, only target_wait_seconds"),
    ],
)
def test_wrong_settings_are_named_before_anything_starts(
    kwargs: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    scaling = {"policy": {"policy_function": "deployments.autoscaling:AudioPolicy", "policy_kwargs": kwargs}}
    assert said in str(policy_fault(scaling))
    config = {
        "applications": [
            {
                "import_path": "serve_app.app:build",
                "deployments": [{"name": "Vad", "autoscaling_config": {"max_replicas": 2, **scaling}}],
            }
        ]
    }
    with pytest.raises(NotServable, match=f"autoscaling of Vad.*{said}"):
        fit_to_models(ServeDeploySchema.model_validate(config))
    # Where nobody looked before, Serve's controller goes on, and logs it.
    with caplog.at_level("ERROR", "ray.serve"):
        assert needed(AudioPolicy(**kwargs), Context([BUSY] * 5)) == 7
    assert said in caplog.text


def test_a_policy_that_is_not_there_is_named_and_those_of_others_are_left_alone() -> None:
    assert "no policy deployments.autoscaling:Audio;" in str(
        policy_fault({"policy": {"policy_function": "deployments.autoscaling:Audio"}})
    )
    assert policy_fault({"policy": {"policy_function": "somewhere.else:Policy"}}) is None
    assert policy_fault({"max_replicas": 3}) is None
    assert policy_fault(None) is None


@pytest.mark.parametrize("path", sorted({*ROOT.glob("configs/*.yaml"), ROOT / "serve_config.yaml"}))
def test_the_policies_of_every_profile_can_work(path: Path) -> None:
    config = yaml.safe_load(path.read_text("utf-8"))
    for application in config.get("applications", ()):
        for deployment in application["deployments"]:
            assert policy_fault(deployment.get("autoscaling_config")) is None


def test_the_policy_gets_to_a_controller_that_has_nothing_of_this_project(tmp_path: Path) -> None:
    scaling = AutoscalingConfig(
        max_replicas=4,
        policy={
            "policy_function": "deployments.autoscaling:AudioPolicy",
            "policy_kwargs": {"target_busy": 1},
        },
    )
    (tmp_path / "policy").write_bytes(scaling.policy.get_serialized_policy_def() or b"")
    script = (
        "import pickle, sys; sys.modules['deployments'] = None\n"
        "policy = pickle.load(open('policy', 'rb'))(target_busy=1); print(type(policy).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "AudioPolicy\n", done.stderr
    assert pickle.loads(scaling.policy.get_serialized_policy_def() or b"").__name__ == "AudioPolicy"


def test_a_simulated_queue_of_mixed_lengths_waits_less_than_with_the_stock_policy() -> None:
    traffic = generate("bursts", 400)
    kwargs = {"target_wait_seconds": 1, "target_busy": 0.3, "hold_seconds": 0}
    own = simulate("own", traffic, ours(kwargs, 64), Machine())
    others = [simulate("stock", traffic, stock(target, 10, 64), Machine()) for target in (32, 16, 8)]
    cheaper = [each for each in others if each.replica_seconds <= 1.02 * own.replica_seconds]
    assert cheaper, [each.replica_seconds for each in others]
    pieces = sum(1 if each.kind == "clip" else -(-each.audio_seconds // 20) for each in traffic)
    assert len(own.waits) == pieces
    assert percentile(own.waits, 95) < 0.7 * min(percentile(each.waits, 95) for each in cheaper)


def test_a_simulated_file_of_five_hours_is_done_and_its_replicas_go() -> None:
    traffic = [Request(0, 5 * 3600, "file"), Request(400, 3, "clip")]
    own = simulate("own", traffic, ours({"hold_seconds": 0}, 16), Machine(start_seconds=5))
    counts = [running for _, running, _ in own.counts]
    assert len(own.waits) == 901
    assert max(counts) > 2
    assert counts[-1] == 1
    assert max(own.waits) < IN_FLIGHT * 20 / 30 + 1


def test_live_sessions_are_scaled_by_their_lag() -> None:
    traffic = [Request(index * 0.5, 120, "live") for index in range(80)]
    kwargs = {"target_busy": 1, "max_lag_seconds": 0.5, "hold_seconds": 0}
    own = simulate("own", traffic, ours(kwargs, 16), Machine(speed=20, overhead=0.05, start_seconds=5))
    assert max(running for _, running, _ in own.counts) > 2
    assert percentile(own.waits, 50) < 0.6


def test_traffic_is_written_read_and_made_of_a_log(tmp_path: Path) -> None:
    requests = generate("long-file", 60)
    assert {"clip", "file"} == {request.kind for request in requests}
    write_traffic(requests, tmp_path / "traffic.jsonl")
    assert read_traffic(tmp_path / "traffic.jsonl") == requests
    for line in ('{"at": 1}', "no", '{"at": -1, "audio_seconds": 2, "kind": "clip"}', ""):
        (tmp_path / "wrong.jsonl").write_text(line)
        with pytest.raises(TrafficError, match=r"wrong\.jsonl"):
            read_traffic(tmp_path / "wrong.jsonl")
    log = [
        "something else",
        "INFO 2026-11-21 10:00:05,000 asr_Ingress x1 aaa -- recognized 0.00 s to 3.50 s: 'a'",
        "INFO 2026-11-21 10:00:05,010 asr_Ingress x1 aaa -- POST /v1/audio/transcriptions 200 1010.0ms",
        "INFO 2026-11-21 10:00:07,000 asr_Ingress x1 bbb -- recognized 0.00 s to 2.00 s: 'b'",
        "INFO 2026-11-21 10:00:09,000 asr_Ingress x1 bbb -- recognized 2.50 s to 4.00 s: 'b'",
        json.dumps(
            {
                "asctime": "2026-11-21 10:00:30,000",
                "request_id": "ccc",
                "message": "recognized 0.00 s to 99.00 s: 'c'",
            }
        ),
    ]
    assert from_log(log) == [
        Request(0.0, 3.5, "clip"),
        Request(3.0, 4.0, "live"),
        Request(26.0, 99.0, "file"),
    ]
    with pytest.raises(TrafficError, match="LOG_TRANSCRIPTS"):
        from_log(log[:1])


def test_the_commands_make_a_recording_of_a_log_and_compare_policies_on_it(tmp_path: Path) -> None:
    lines = [
        f"INFO 2026-11-21 10:00:{index:02},000 asr_Ingress x1 id{index} -- recognized 0 s to {length} s: 'a'"
        for index, length in enumerate([5, 300, 4, 6, 900, 3])
    ]
    (tmp_path / "server.log").write_text("\n".join(lines))

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    made = run("autoscale_traffic", "server.log", "traffic.jsonl")
    assert "6 requests" in made.stdout, made.stderr
    quick = ("--replicas", "4", "--start", "3", "--processes", "1")
    done = run("autoscale_sim", "traffic.jsonl", *quick, "--plot", "autoscaling.png")
    assert "AudioPolicy" in done.stdout, done.stderr
    assert "below that of the stock policy" in done.stdout
    assert (tmp_path / "autoscaling.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty.jsonl").write_text("")
    assert "has no requests" in CliRunner().invoke(app, [str(tmp_path / "empty.jsonl")]).stderr
    wrong = CliRunner().invoke(app, ["bursts", "--kwargs", '{"target_busy": 2}'])
    assert wrong.exit_code == 2
    assert "target_busy" in wrong.stderr
