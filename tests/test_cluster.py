"""Several machines, with addresses of their own: placement, and what is left when one of them goes.

One cluster for the whole file; the tests go from its begin to its end.
"""

import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray.serve.schema import ServeDeploySchema
from sqlalchemy import create_engine, text

from benchmarks.machines import cable
from serve_app.cli.gpus import gpu_shortage
from serve_app.edge.settings import Address
from tests import audio_files
from tests.cluster_world import (
    CARD,
    PORT,
    World,
    clients,
    cluster_world,
    get,
    graph,
    transcribe,
    without_models,
)
from tests.conftest import Sample
from tests.edge_world import running_edge
from tests.live_speech import recording

pytestmark = pytest.mark.own_server

MODELS = ["Vad", "Paraformer", "ParaformerStreaming", "Punctuation"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Sockets lie in there, whose paths must be short, and PostgreSQL, which is another user.
    directory = Path("/tmp") / f"asr-{uuid.uuid4().hex[:6]}"
    with cluster_world(directory) as running:
        yield running
    shutil.rmtree(directory)


def test_more_than_any_node_has_waits_and_is_told(world: World) -> None:
    """Our own check refuses it. Ray does not: it waits for a node, and ``/readyz`` and the status say so."""
    config = graph(ParaformerStreaming={"ray_actor_options": {"num_gpus": 2}})
    shortage = gpu_shortage(ServeDeploySchema.model_validate(config), 2)
    assert shortage is not None
    assert "ParaformerStreaming" in shortage
    world.cluster.deploy(config, wait=False)
    lacking = {"Vad", "Paraformer", "Punctuation", "Jobs", "Ingress"}
    world.until("the others", lambda: lacking <= world.running().keys())
    told = get(world.front[0], "/readyz")
    assert told.status_code == 503
    states = told.json()["deployments"]
    assert states.pop("ParaformerStreaming") == "UPDATING"
    assert set(states.values()) == {"READY"}
    world.until(
        "the reason", lambda: "'GPU': 2" in world.cluster.told() or '"GPU": 2' in world.cluster.told()
    )
    assert "ParaformerStreaming" not in world.running()


def test_replicas_are_where_their_shares_have_room(world: World) -> None:
    planned = graph()
    assert gpu_shortage(ServeDeploySchema.model_validate(planned), 2) is None
    world.cluster.deploy(planned)
    placed = world.running()
    _, one, two, _ = (machine.ip for machine in world.machines)
    assert all(placed[name] == {one, two} for name in [*MODELS, "Jobs"])
    assert placed["Ingress"] == set(world.front)
    shares = {entry["name"]: entry["ray_actor_options"]["num_gpus"] for entry in deployments()}
    for card in (one, two):
        on_it = [each.deployment for each in world.cluster.replicas() if each.ip == card]
        assert sum(shares[name] for name in on_it) <= CARD + 1e-9
        assert len(on_it) == len(set(on_it))
    assert get(world.front[0], "/readyz").json()["status"] == "ready"


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = graph()["applications"][0]["deployments"]
    return found


def test_audio_crosses_nodes(world: World, samples: list[Sample]) -> None:
    """The head has an ingress and no model, the last worker models and no ingress: audio has to travel."""
    for machine in world.machines[:3]:
        for sample in samples[:2]:
            assert transcribe(machine.ip, sample) == sample.written


def test_a_killed_node_costs_no_answer(world: World, samples: list[Sample]) -> None:
    """Files, live sessions and jobs, while a machine with half of all models loses its power."""
    two = world.machines[2].ip
    expected = result(world, submit(world, samples))
    (worker,) = [each.pid for each in world.cluster.replicas() if (each.deployment, each.ip) == ("Jobs", two)]
    with clients(world.front, samples) as crowd:
        jobs = [submit(world, samples) for _ in range(4)]
        world.until("a job there", lambda: f"-{worker}-" in "".join(holders(world)))
        world.cluster.kill("two")
        crowd.until_more(20)
        world.until("the loss", lambda: two not in world.everywhere())
        assert get(world.front[0], "/readyz").status_code == 200
        crowd.until_more(8)
    assert crowd.wrong == []
    assert [result(world, job) for job in jobs] == [expected] * 4
    assert max(attempts(world, job) for job in jobs) > 1


@pytest.mark.long
def test_a_node_that_joins_takes_the_place_of_the_lost_one(world: World) -> None:
    two = world.machines[2]
    world.worker("two", two)
    world.until("all replicas", lambda: {*MODELS, "Jobs"} <= world.of(two.ip))


@pytest.mark.long
def test_a_machine_that_nobody_hears_of_is_missed(world: World, samples: list[Sample]) -> None:
    """Its cable is pulled: nothing tells that it is gone, and what was asked of it is asked elsewhere."""
    with clients(world.front, samples, sessions=2) as crowd:
        cable(world.machines[2], "down")
        crowd.until_more(12)
    assert crowd.wrong == []
    given_up = world.cluster.nodes.pop("two")
    cable(world.machines[2], "up")
    # It is told that it was given up, and ends itself, so that something may start it anew.
    world.until("its end", lambda: not given_up.runs())
    given_up.kill()


@pytest.mark.long
def test_a_node_without_the_models_is_named(world: World, samples: list[Sample], tmp_path: Path) -> None:
    machine = world.machines[3]
    world.worker("bare", without_models(machine, tmp_path / "empty"))
    wanted = f"On the node {machine.ip}: There is no "
    world.until("the reason", lambda: wanted in world.cluster.told())
    assert machine.ip not in world.running().get("Vad", ())
    assert transcribe(world.front[0], samples[0]) == samples[0].written
    world.cluster.kill("bare")


@pytest.mark.long
def test_the_head_is_started_anew_and_finds_all_as_it_was(
    world: World, samples: list[Sample], tmp_path: Path
) -> None:
    """With Redis for its memory, nothing is deployed again, and workers go on meanwhile."""
    head, one = world.front
    before = {each.pid for each in world.cluster.replicas() if each.ip == one and each.state == "RUNNING"}
    assert get(one, "/readyz").json()["status"] == "ready"
    nodes = [Address(ip, PORT) for ip in world.front]
    with running_edge(tmp_path, *nodes) as edge, ThreadPoolExecutor() as pool:
        world.cluster.kill("head")
        world.until("the end of its proxy", lambda: is_gone(head))
        # Whoever comes in by the edge from now on finds the node that is left. Replicas that have not worked
        # with each other yet do so once the head is back.
        meanwhile = [pool.submit(transcribe, edge.http, samples[0]) for _ in range(6)]
        for _ in range(3):
            assert get(one, "/readyz").json()["status"] == "ready"
        job = submit(world, samples, one)
        world.head()
        world.until("the head's ingress", lambda: head in world.running().get("Ingress", ()))
        assert {each.result() for each in meanwhile} == {samples[0].written}
        assert result(world, job, one)
    assert before <= {each.pid for each in world.cluster.replicas() if each.ip == one}
    world.until("the front", lambda: answers(head))
    assert transcribe(head, samples[0]) == samples[0].written


def is_gone(ip: str) -> bool:
    try:
        get(ip, "/healthz")
    except httpx.TransportError:
        return True
    return False


def answers(ip: str) -> bool:
    try:
        return get(ip, "/readyz").is_success
    except httpx.TransportError:
        return False


def submit(world: World, samples: list[Sample], ip: str = "") -> str:
    """A job of some minutes of speech; its id."""
    audio = np.tile(recording([sample.path for sample in samples]), 6).astype(np.float32) / np.float32(32768)
    answer = httpx.post(
        f"http://{ip or world.front[0]}:{PORT}/v1/jobs",
        files={"file": audio_files.wav(audio, 16_000)},
        data={"response_format": "text"},
        timeout=60,
        trust_env=False,
    )
    return str(answer.raise_for_status().json()["id"])


def result(world: World, job: str, ip: str = "") -> str:
    """The text of a job, once it is completed."""
    address = ip or world.front[0]
    world.until("the end of a job", lambda: get(address, f"/v1/jobs/{job}").json()["status"] == "completed")
    return get(address, f"/v1/jobs/{job}/result").text


def holders(world: World) -> list[str]:
    """The workers that hold a job now, by the names of their leases."""
    return [str(name) for (name,) in rows(world, "SELECT lease_owner FROM asr_jobs WHERE status = 'running'")]


def attempts(world: World, job: str) -> int:
    return int(rows(world, f"SELECT attempts FROM asr_jobs WHERE id = '{job}'")[0][0])


def rows(world: World, query: str) -> list[Any]:
    engine = create_engine(world.database)
    with engine.connect() as connection:
        found = [*connection.execute(text(query))]
    engine.dispose()
    return found
