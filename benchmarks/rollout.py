"""What do clients notice while a running server is changed?

``python -m benchmarks.rollout`` starts a server of its own, has files and live sessions in steady work on it,
changes its config in one way after the other, has it read again (SIGHUP), and prints per change how many
requests there were meanwhile, how many failed, and the longest that one took, beyond the length of its audio
where it is spoken in real time.
"""

import signal
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import httpx
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.live_server import LiveServer, live_server
from benchmarks.steady_load import KINDS, Kind, Outcome, SteadyLoad

Config = dict[str, Any]

_APPLIED = "The config was read again and applied."
_NOT_APPLIED = "The config was not applied."
_PATIENCE_SECONDS = 900
_PAUSE_SECONDS = 1.0
_SMALL = {"QWEN3_MODEL": "none", "SPEAKER_MODEL": "none"}


def entry(config: Config, name: str) -> Config:
    """What the config says of a deployment; an entry is made where there is none."""
    entries: list[Config] = config["applications"][0]["deployments"]
    for item in entries:
        if item["name"] == name:
            return item
    entries.append({"name": name})
    return entries[-1]


def settings(config: Config) -> Config:
    """The settings that a config makes."""
    found: Config = config["applications"][0].setdefault("args", {})
    return found


def _user_config(config: Config) -> None:
    entry(config, "Paraformer").setdefault("user_config", {})["max_batch_seconds"] = 30
    entry(config, "ParaformerStreaming").setdefault("user_config", {})["max_batch_chunks"] = 32


def _more_replicas(config: Config) -> None:
    entry(config, "Punctuation")["num_replicas"] = 2
    entry(config, "ParaformerStreaming")["num_replicas"] = 2


def _fewer_replicas(config: Config) -> None:
    entry(config, "Punctuation")["num_replicas"] = 1
    entry(config, "ParaformerStreaming")["num_replicas"] = 1


def _setting(config: Config) -> None:
    settings(config)["max_queued_jobs"] = 999


def _other_model(config: Config) -> None:
    settings(config)["paraformer_model"] = "models/starter/paraformer-hotwords"


def _two_models(config: Config) -> None:
    settings(config)["enabled_models"] = "paraformer-starter,paraformer-hotwords-starter"
    settings(config)["default_model"] = "paraformer-hotwords-starter"


def _one_model(config: Config) -> None:
    settings(config)["enabled_models"] = settings(config)["default_model"] = "paraformer-starter"


def _new_code(config: Config) -> None:
    config["applications"][0]["runtime_env"] = {"env_vars": {"ASR_RELEASE": "next"}}


CHANGES: dict[str, tuple[str, Callable[[Config], None]]] = {
    "user_config": ("user_config of two deployments", _user_config),
    "up": ("one replica more of two deployments", _more_replicas),
    "down": ("one replica fewer of them", _fewer_replicas),
    "setting": ("a setting", _setting),
    "model": ("another recognizer in its place", _other_model),
    "code": ("another version of the code", _new_code),
    "add": ("one more recognizer, which is now the default", _two_models),
    "remove": ("without it again", _one_model),
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What came of one change. Seconds."""

    name: str
    applied_after: float
    outcomes: tuple[Outcome, ...]
    not_ready: int

    def of(self, kind: Kind) -> list[Outcome]:
        """Requests of this kind that ended after the change was asked for."""
        return [item for item in self.outcomes if item.kind == kind]

    def longest_wait(self, kind: Kind) -> float:
        """The longest wait of those that were answered."""
        return max((item.wait for item in self.of(kind) if item.error is None), default=float("nan"))

    @property
    def errors(self) -> list[Outcome]:
        """Those that were not."""
        return [item for item in self.outcomes if item.error is not None]


class Probe:
    """Asks ``/readyz`` as a load balancer does; counts answers other than 200, and none."""

    def __init__(self, url: str) -> None:
        self.not_ready = 0
        self._url = url + "/readyz"
        self._done = Event()
        self._thread = Thread(target=self._ask)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._done.wait(0.5):
            try:
                self.not_ready += httpx.get(self._url, timeout=10, trust_env=False).status_code != 200
            except httpx.TransportError:
                self.not_ready += 1


def apply(server: LiveServer, path: Path, config: Config, seconds: float = _PATIENCE_SECONDS) -> bool:
    """Have a running server read its changed config, and wait until it says what came of it.

    Returns:
        Whether it was applied.

    Raises:
        TimeoutError: that took longer than ``seconds``.
    """
    before = _answers(server)
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    deadline = time.monotonic() + seconds
    server.process.send_signal(signal.SIGHUP)
    while (now := _answers(server)) == before:
        if time.monotonic() > deadline:
            raise TimeoutError(f"The config was neither applied nor refused in {seconds:g} s.")
        time.sleep(0.1)
    return now[0] > before[0]


def _answers(server: LiveServer) -> tuple[int, int]:
    log = server.log.read_text(encoding="utf-8", errors="replace")
    return log.count(_APPLIED), log.count(_NOT_APPLIED)


def measure(server: LiveServer, load: SteadyLoad, path: Path, config: Config, name: str) -> Effect:
    """Make one change under load, and wait until everybody has begun again and been answered."""
    CHANGES[name][1](config)
    asked = time.monotonic()
    with Probe(server.url) as probe:
        apply(server, path, config)
        applied = time.monotonic()
        load.wait_for(since=applied, seconds=_PATIENCE_SECONDS)
    during = tuple(item for item in load.outcomes if item.ended > asked)
    return Effect(name, applied - asked, during, probe.not_ready)


def speech(path: Path) -> bytes:
    """A recording of ``samples/`` with a pause behind it: mono s16le at 16 kHz."""
    with wave.open(str(path)) as file:
        said: bytes = file.readframes(file.getnframes())
        return said + bytes(2 * round(_PAUSE_SECONDS * file.getframerate()))


def _table(effects: list[Effect]) -> Table:
    table = Table("change", "applied after s", title="While a running server is changed")
    for kind in KINDS:
        table.add_column(f"{kind}: requests")
        table.add_column("longest wait s")
    table.add_column("errors")
    table.add_column("not ready")
    for effect in effects:
        cells = [CHANGES[effect.name][0], f"{effect.applied_after:.1f}"]
        for kind in KINDS:
            cells += [str(len(effect.of(kind))), f"{effect.longest_wait(kind):.2f}"]
        table.add_row(*cells, str(len(effect.errors)), str(effect.not_ready))
    return table


def main(
    changes: Annotated[list[str] | None, typer.Argument(help=", ".join(CHANGES))] = None,
    config: Annotated[Path, typer.Option(help="Serve config to begin with.")] = Path("serve_config.yaml"),
    recording: Annotated[Path, typer.Option(help="What clients say.")] = Path("samples/travel.wav"),
    files: Annotated[int, typer.Option(help="Clients that send files.")] = 2,
    sessions: Annotated[int, typer.Option(help="Live clients of each protocol.")] = 2,
    surge: Annotated[bool, typer.Option(help="Start new replicas before old ones end.")] = True,
) -> None:
    """Measure the changes that are named, or all, one after the other on one server."""
    console = Console(width=200)
    document: Config = yaml.safe_load(config.read_text(encoding="utf-8"))
    for item in document["applications"][0]["deployments"]:
        if not surge:
            item["max_surge_percent"] = 0
    clients: dict[Kind, int] = {"file": files, "funasr": sessions, "realtime": sessions}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        with live_server(Path(directory, "server.log"), config=path, env=_SMALL) as server:
            with SteadyLoad(server.url, speech(recording), clients) as load:
                load.wait_for(since=0, seconds=_PATIENCE_SECONDS)
                effects = [measure(server, load, path, document, name) for name in changes or CHANGES]
            console.print(_table(effects))
            for error in load.errors:
                console.print(error)


if __name__ == "__main__":
    typer.run(main)
