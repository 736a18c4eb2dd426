"""Servers that send too much, too slowly, or without an end: each download ends soon, and takes no more than it may."""

from __future__ import annotations

import shutil
import socketserver
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipfit_cli.data import catalog
from clipfit_cli.data.disk import NoSpaceError
from clipfit_cli.data.fetch import download, transfer
from clipfit_cli.data.sources import Source
from clipfit_cli.errors import DataError

PATIENCE_S = 0.4
"""For servers that send too little however long they are waited for; all others have a minute."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n"
BLOCK = bytes(1 << 16)

Send = Callable[[bytes], None]


def drip(send: Send, beginning: bytes) -> None:
    """Send something, then a letter now and then."""
    send(beginning)
    for _ in range(1200):
        send(b"1")
        time.sleep(0.05)


def flood(send: Send, beginning: bytes, blocks: int = 10_000) -> None:
    """Send something, then zeros as fast as they are taken."""
    send(beginning)
    for _ in range(blocks):
        send(BLOCK)


SERVERS: dict[str, Callable[[Send], None]] = {
    "status": lambda send: drip(send, b"HTTP/1.1 200 "),
    "header": lambda send: drip(send, HEAD + b"X-Long: "),
    "body": lambda send: drip(send, HEAD + b"\r\n"),
    "length": lambda send: drip(send, HEAD + b"Content-Length: 100000\r\n\r\n"),
    "chunk": lambda send: drip(send, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
    "silence": lambda send: time.sleep(60),
    "endless": lambda send: flood(send, HEAD + b"\r\n"),
    "negative": lambda send: flood(send, HEAD + b"Content-Length: -5\r\n\r\n"),
    "large": lambda send: flood(send, HEAD + b"Content-Length: 1000000000000000\r\n\r\n"),
    "headers": lambda send: flood(send, HEAD + b"X-Long: "),
    "redirect": lambda send: flood(send, b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n"),
}


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a file on a server of one kind."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                if not self.request.recv(1 << 16):  # clipfit only looks whether the server is there
                    return
                SERVERS[request.param](self.request.sendall)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a.zip"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        *((name, "less than 1,000 bytes a second came; given up") for name in list(SERVERS)[:6]),
        *((name, "more came than the 500,000 bytes of the file") for name in ("endless", "negative")),
        ("large", "has 1,000,000,000,000,000 bytes, at most 500,000 were expected; refused"),
        ("headers", "no answer .*got more than 65536 bytes"),
        ("redirect", "no answer|30[27]"),
    ],
    indirect=["address"],
)
def test_a_download_ends(address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE_S", PATIENCE_S if message.startswith("less") else 60)
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0))
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        download.download(address, tmp_path / "a.zip", most=500_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("address", ["slow"], indirect=True)
def test_a_slow_server_is_waited_for(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is over when 1,000 bytes have come, which is just enough."""
    came = threading.Semaphore(0)

    class Seconds(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            NEXT_SECOND.release()
            assert came.acquire(timeout=60)
            return self.is_set()

        def set(self) -> None:
            super().set()
            came.release()

    monkeypatch.setattr(download, "threading", SimpleNamespace(Event=Seconds, Thread=threading.Thread))
    monkeypatch.setattr(download, "PATIENCE_S", 1.0)
    download.download(
        address, tmp_path / "a.zip", progress=lambda have, _: came.release() if have and have % 1000 == 0 else None
    )
    assert (tmp_path / "a.zip").read_bytes() == bytes(20_000)


def test_the_room_that_is_asked_for_grows_with_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that does not say how much it sends: 10 MB of an archive of about 1 MB need room for its images."""
    source = Source("http://x/a.zip", "authors", ".zip", megabytes=1.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10e6})())
    limits = []

    def come(*_: object, progress: Callable[[int, int | None], None], most: int, **__: object) -> None:
        limits.append(most)
        progress(1_000_000, None)
        progress(10_000_000, None)

    monkeypatch.setattr(transfer, "download", come)
    way = transfer.Way(tmp_path, offline=False, say=print, step=lambda *_: None)
    with pytest.raises(NoSpaceError, match=r"archive and images, needs about 11.5 MB"):
        transfer.fetch_archive(catalog.row("dtd"), source, way)
    assert limits == [2_000_000 + (16 << 20)]


def test_the_library_of_the_hub_asks_for_nothing_else() -> None:
    """What it asks for by itself it reads into memory, of whatever length."""
    code = (
        "from clipfit_cli import process; process.set_up(); from huggingface_hub import constants; "
        "print(int(constants.HF_HUB_DISABLE_TELEMETRY))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"


def slow(send: Send) -> None:
    """Send 1,000 bytes in each second of the test."""
    send(HEAD + b"Content-Length: 20000\r\n\r\n")
    for _ in range(20):
        assert NEXT_SECOND.acquire(timeout=60)
        send(bytes(1000))


NEXT_SECOND = threading.Semaphore(0)
SERVERS["slow"] = slow
