"""Jobs and voices in PostgreSQL, as several machines share them: what is tested with SQLite, and more."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy.exc import OperationalError

from serve_app.errors import Overloaded
from serve_app.http import create_app
from serve_app.jobs.database import Database
from serve_app.jobs.service import DatabaseJobs
from serve_app.settings import Settings
from tests.database_servers import Postgres, postgres_server
from tests.jobs_world import JobsWorld
from tests.test_file_pipeline import characters
from tests.test_http_app import SilentGraph
from tests.test_jobs_runner import (
    test_a_canceled_job_stops_while_it_runs,
    test_a_deleted_job_is_gone_with_all_of_it,
    test_a_worker_that_is_asked_to_stop_leaves_its_jobs_to_others_at_once,
    test_a_worker_that_was_away_too_long_changes_nothing_any_more,
    test_killed_in_the_second_channel_it_goes_on_there,
    test_nobody_else_takes_a_job_whose_worker_lives,
    test_two_workers_share_what_there_is,
    test_what_has_expired_is_removed_and_what_nobody_needs,
    world,
)
from tests.test_jobs_store import (
    jobs,
    test_a_full_queue_is_told_and_leaves_nothing_behind,
    test_a_key_gives_its_job_again,
    test_a_key_that_comes_many_times_at_once_makes_one_job,
    test_an_order_comes_back_as_it_was_given,
    test_nobody_sees_the_jobs_of_others,
    test_processes_that_claim_at_once_get_each_job_once,
    test_the_list_goes_from_the_newest_to_the_oldest_in_pages,
)
from tests.test_jobs_webhooks import test_several_senders_send_each_once
from tests.test_speakers import test_speakers_outlive_the_server, test_the_same_name_twice_at_once

__all__ = [
    "jobs",
    "test_a_canceled_job_stops_while_it_runs",
    "test_a_deleted_job_is_gone_with_all_of_it",
    "test_a_full_queue_is_told_and_leaves_nothing_behind",
    "test_a_key_gives_its_job_again",
    "test_a_key_that_comes_many_times_at_once_makes_one_job",
    "test_a_worker_that_is_asked_to_stop_leaves_its_jobs_to_others_at_once",
    "test_a_worker_that_was_away_too_long_changes_nothing_any_more",
    "test_an_order_comes_back_as_it_was_given",
    "test_killed_in_the_second_channel_it_goes_on_there",
    "test_nobody_else_takes_a_job_whose_worker_lives",
    "test_nobody_sees_the_jobs_of_others",
    "test_processes_that_claim_at_once_get_each_job_once",
    "test_several_senders_send_each_once",
    "test_speakers_outlive_the_server",
    "test_the_list_goes_from_the_newest_to_the_oldest_in_pages",
    "test_the_same_name_twice_at_once",
    "test_two_workers_share_what_there_is",
    "test_what_has_expired_is_removed_and_what_nobody_needs",
    "world",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # Not in pytest's own directory, which nobody else may look into, and PostgreSQL is somebody else.
    directory = Path("/tmp") / f"asr-postgres-{uuid.uuid4().hex[:8]}"
    with postgres_server(directory) as running:
        yield running
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def database(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty one for each test, which all settings name."""
    url = server.create(f"t{uuid.uuid4().hex}")
    monkeypatch.setenv("JOBS_DATABASE_URL", url)
    return url


async def test_a_server_that_is_started_anew_stops_nothing_for_good(
    world: JobsWorld,
    server: Postgres,
) -> None:
    world.graph.gate.clear()
    async with world.running():
        job = await world.submit([1, 2, 3])
        await world.until(lambda: world.graph.priorities)
        server.stop()
        world.graph.gate.set()
        server.start()
        assert await world.text(job) == characters([1, 2, 3])


def test_a_server_that_says_nothing_is_not_waited_for(server: Postgres, database: str) -> None:
    process = psutil.Process(int((server.directory / "data" / "postmaster.pid").read_text().split()[0]))
    process.suspend()
    try:
        with pytest.raises(OperationalError, match="timeout"), Database(database).read():
            pass
    finally:
        process.resume()


async def test_a_full_disk_is_told(database: str) -> None:
    with pytest.raises(Overloaded, match="full"), Database(database).write() as connection:
        connection.exec_driver_sql("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$")


async def ready() -> dict[str, str]:
    return {}


async def test_a_password_is_in_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JOBS_DATABASE_URL", "postgresql+psycopg://asr:hidden-word@127.0.0.1:1/nothing")
    settings = Settings(data_dir=tmp_path)
    assert "hidden-word" not in repr(settings)
    with pytest.raises(Overloaded, match="cannot reach its database") as caught:
        await DatabaseJobs(settings).list("me")
    assert "refused" in str(caught.value.__cause__)
    assert "hidden-word" not in f"{caught.value}{caught.value.__cause__}"
    app = create_app(settings, SilentGraph(), ready)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://asr.test") as client:
        for path in ("/v1/jobs", "/v1/speakers"):
            answer = await client.get(path)
            assert answer.status_code == 429, path
            assert "cannot reach its database" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
