"""What a replica tells where its node lacks something, or its cluster has no head; without a cluster."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve._private.common import DeploymentStatus, ReplicaState

from deployments.model_store import ModelMissing
from deployments.replica import model_directory
from serve_app import deployment_states
from serve_app.deployment_states import DeploymentStates
from tests.conftest import ROOT


def test_a_model_that_only_other_nodes_have_is_named_with_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    whole = ROOT / "models" / "starter" / "fsmn-vad"
    assert model_directory(str(whole)) == whole
    here: Any = ray.util
    node = here.get_node_ip_address()
    with pytest.raises(ModelMissing, match=f"On the node {node}: There is no {tmp_path}/vad"):
        model_directory(str(tmp_path / "vad"))
    for file in whole.iterdir():
        if file.name != "model.pt":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ModelMissing, match=rf"On the node {node}: .*has no model\.pt"):
        model_directory(str(tmp_path))
    # Serve starts the next one at once.
    assert len(pauses) == 2
    assert min(pauses) >= 5


class Controller:
    """Stands for Serve's; while ``away``, whoever asks it waits."""

    def __init__(self) -> None:
        self.here = threading.Event()
        self.here.set()
        self.asked = 0
        self.running = 1

    def status(self) -> object:
        self.asked += 1
        assert self.here.wait(30)
        model = SimpleNamespace(
            status=DeploymentStatus.UPDATING, replica_states={ReplicaState.RUNNING: self.running}
        )
        return SimpleNamespace(applications={"asr": SimpleNamespace(deployments={"Vad": model})})


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    made = Controller()
    monkeypatch.setattr(serve, "status", made.status)
    monkeypatch.setattr(deployment_states, "_PATIENCE_SECONDS", 0.05)
    yield made
    made.here.set()


async def test_what_was_told_last_holds_while_nobody_answers(controller: Controller) -> None:
    states = DeploymentStates("asr")
    assert await states() == {"Vad": "READY"}
    controller.here.clear()
    controller.running = 0
    # However many ask, one thread waits.
    assert await asyncio.gather(*(states() for _ in range(20))) == [{"Vad": "READY"}] * 20
    assert controller.asked == 2
    controller.here.set()
    # The answer to the question of before, or one to the next.
    assert {"Vad": "UPDATING"} in [await states() for _ in range(3)]


async def test_who_never_heard_of_anything_is_not_ready(controller: Controller) -> None:
    controller.here.clear()
    try:
        assert await DeploymentStates("asr")() == {}
    finally:
        controller.here.set()
