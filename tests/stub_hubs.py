"""ModelScope and Hugging Face on one port of this machine, as far as their clients ask them, with faults."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The revision that every model of the stub has on Hugging Face."""

LARGE = 4096
"""Bytes from which on a file is kept by Git LFS: hashed with SHA-256, and served from elsewhere."""


@dataclass(slots=True)
class Faults:
    """What goes wrong, by the path of a file in its repository.

    Attributes:
        cut: the connection ends after so many bytes; once for each number.
        stall: nothing more comes after so many bytes, until ``released`` is set.
        corrupt: one bit of the content is another one; the size is right.
        down: every answer has the status 503.
    """

    cut: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    down: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class StubHubs:
    """``models``: files of each id. ``fetched``: ``(path, first byte asked for)`` of each download."""

    url: str
    models: dict[str, Mapping[str, bytes]]
    faults: Faults
    fetched: list[tuple[str, int]]

    def asked(self, path: str) -> list[int]:
        """From which bytes a file was asked for, each time."""
        return [first for name, first in self.fetched if name == path]


@contextmanager
def stub_hubs() -> Iterator[StubHubs]:
    """Both hubs, without a model at first."""
    server = _Server(("127.0.0.1", 0), _Handler)
    hubs = server.hubs = StubHubs(f"http://127.0.0.1:{server.server_port}", {}, Faults(), [])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hubs
    finally:
        hubs.faults.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hubs: StubHubs


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hubs(self) -> StubHubs:
        assert isinstance(self.server, _Server)
        return self.server.hubs

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if self._hubs.faults.down:
            self._json(503, {"Code": 503, "Message": "down"})
        elif parts[:3] == ["api", "v1", "models"]:
            self._modelscope("/".join(parts[3:5]), parts[5:], query)
        elif parts[:2] == ["api", "models"]:
            self._hugging_face_model("/".join(parts[2:4]), tree=parts[4:5] == ["tree"])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._hugging_face_file("/".join(parts[:2]), "/".join(parts[4:]))
        elif parts[0] == "cdn":
            self._content("/".join(parts[1:3]), "/".join(parts[3:]), {})
        else:
            self._json(200, {"Code": 200, "Data": {}})

    def _modelscope(self, model: str, rest: list[str], query: Mapping[str, str]) -> None:
        files = self._hubs.models.get(model)
        if files is None:
            self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        elif rest == ["repo", "files"]:
            listed = [
                {
                    "Path": path,
                    "Name": path.rpartition("/")[2],
                    "Type": "blob",
                    "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                    "Revision": COMMIT,
                    "IsLFS": len(content) >= LARGE,
                }
                for path, content in files.items()
            ]
            self._json(200, {"Code": 200, "Data": {"Files": listed}, "Success": True})
        elif rest == ["repo"]:
            self._content(model, query["FilePath"], {})
        else:
            self._json(200, {"Code": 200, "Data": {"Path": model.partition("/")[0]}, "Success": True})

    def _hugging_face_model(self, model: str, *, tree: bool) -> None:
        files = self._hubs.models.get(model)
        if files is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings, entries = [], []
        for path, content in files.items():
            sizes: dict[str, Any] = {"size": len(content)}
            lfs = {**sizes, "pointerSize": 130} if len(content) >= LARGE else None
            sha256, git_id = hashlib.sha256(content).hexdigest(), _git_id(content)
            siblings.append({"rfilename": path, **sizes, "blobId": git_id})
            entries.append({"type": "file", "path": path, **sizes, "oid": git_id})
            if lfs is not None:
                siblings[-1]["lfs"] = {**lfs, "sha256": sha256}
                entries[-1]["lfs"] = {**lfs, "oid": sha256}
        # Later versions of the client list the files of a revision besides.
        whole = {"id": model, "sha": COMMIT, "siblings": siblings, "tags": []}
        self._json(200, entries if tree else whole)

    def _hugging_face_file(self, model: str, path: str) -> None:
        content = self._hubs.models[model][path]
        head = {"X-Repo-Commit": COMMIT}
        if len(content) < LARGE:
            self._content(model, path, {**head, "ETag": f'"{_git_id(content)}"'})
            return
        head["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        head["X-Linked-Size"] = str(len(content))
        # Another host, as far as a client can tell: of redirects within the hub it expects the same headers.
        elsewhere = self._hubs.url.replace("127.0.0.1", "localhost")
        head["Location"] = f"{elsewhere}/cdn/{model}/{path}"
        self._json(302, {}, head)

    def _content(self, model: str, path: str, headers: Mapping[str, str]) -> None:
        content = self._hubs.models[model][path]
        faults = self._hubs.faults
        if path in faults.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        asked = self.headers.get("Range", "")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        body = content[first:]
        self.send_response(206 if asked else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self._hubs.fetched.append((path, first))
        self._send(path, body)

    def _send(self, path: str, body: bytes) -> None:
        faults = self._hubs.faults
        if cuts := faults.cut.get(path):
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
        elif path in faults.stall and not faults.released.is_set():
            self.wfile.write(body[: faults.stall[path]])
            self.wfile.flush()
            faults.stalled.set()
            faults.released.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _json(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_id(content: bytes) -> str:
    """https://git-scm.com/book/en/v2/Git-Internals-Git-Objects"""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
