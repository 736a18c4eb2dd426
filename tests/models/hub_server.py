"""A Hugging Face hub of a test's own, on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

COMMIT = "0" * 40


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        cache: The client's cache folder.
        files: Repository -> file name -> content.
        refusals: Repository -> status and the hub's code of the error, for every file of it.
        asked: Method and path of each request so far.
    """

    cache: Path
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the hub's library ask this hub meanwhile, with an empty cache of its own."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            repository, _, file = self.path.strip("/").partition("/resolve/main/")
            content = hub.files.get(repository, {}).get(file)
            if repository in hub.refusals:
                return self._refuse(*hub.refusals[repository])
            if repository not in hub.files:
                return self._refuse(401, "")  # what the hub says to people whom it does not know
            if content is None:
                return self._refuse(404, "EntryNotFound")
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
            return None

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = _answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        use_endpoint(f"http://127.0.0.1:{server.server_port}", hub.cache, monkeypatch)
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_endpoint(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library talk to an address, with a cache folder of its own."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
