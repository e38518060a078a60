"""SIGKILL of the ingress, of the worker of jobs and of everything: a job ends as if nothing had happened."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from benchmarks.job_client import JobClient, kill_all, kill_replica, long_recording
from benchmarks.live_server import LiveServer, live_server
from tests.conftest import SAMPLES
from tests.test_faults import wait_until

pytestmark = pytest.mark.own_server

CONFIG = Path("serve_config.yaml")
MINUTES = 20
SECRET = "a secret of sixteen"


class World:
    """Servers, one after the other, over one data directory.

    One replica of each model and one segment at a time: a job takes long enough to be hit in its middle.
    In fp32, because in bf16 what else is in a batch may change the last digits.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.config = directory / "serve_config.yaml"
        config = yaml.safe_load(CONFIG.read_text())
        for deployment in config["applications"][0]["deployments"]:
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = 1
            if deployment["name"] == "Jobs":
                deployment["user_config"]["segments_in_flight"] = 1
        self.config.write_text(yaml.safe_dump(config))
        self.recording = directory / "long.wav"
        long_recording(sorted(SAMPLES.glob("*.wav")), self.recording, MINUTES)

    def server(self, name: str) -> AbstractContextManager[LiveServer]:
        env = {
            "SPEAKER_MODEL": "none",
            "QWEN3_MODEL": "none",
            "RAY_TMPDIR": "/tmp",
            "PRECISION": "fp32",
            "MERGE_SEGMENT_SEC": "0",
            "DATA_DIR": str(self.data),
            "ALLOW_PRIVATE_URLS": "127.0.0.1",
        }
        return live_server(self.directory / name, config=self.config, env=env)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("job-faults"))


class Receiver(ThreadingHTTPServer):
    """Takes webhooks, and keeps their headers and bodies."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notices: list[tuple[Message, bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.notices.append((self.headers, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def check_notice(headers: Message, body: bytes, job: str) -> None:
    told = json.loads(body)
    assert (told["type"], told["data"]["id"], told["data"]["status"]) == ("job.completed", job, "completed")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.long
def test_a_job_outlives_every_process_that_works_on_it(world: World, receiver: Receiver) -> None:
    with world.server("first.log") as server:
        client = JobClient(server, world.data)
        undisturbed = client.submit(world.recording)
        text = client.finish(undisturbed)
        assert len(text) > 1000
        hook = f"http://127.0.0.1:{receiver.server_port}/"
        job = client.submit(world.recording, webhook_url=hook, webhook_secret=SECRET)
        client.reach(job, 0.15)
        kill_replica(server, "Ingress")
        client.reach(job, 0.4)
        kill_replica(server, "Jobs")
        client.reach(job, 0.65, attempt=2)
        kill_all(server)
    with world.server("second.log") as server:
        client = JobClient(server, world.data)
        assert client.finish(job) == text
        wait_until(lambda: bool(receiver.notices))
    before, after = client.work(undisturbed), client.work(job)
    assert (before.attempts, after.attempts) == (1, 3)
    assert after.segments == before.segments > 100
    assert (before.recognized_again, after.recognized_again) == (0, 0)
    ((headers, body),) = receiver.notices
    check_notice(headers, body, job)
