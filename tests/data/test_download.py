"""One file over HTTP: whole, resumed, refused; every byte is served once."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from clipfit_cli.data.disk import NoSpaceError, check_room, readable_size
from clipfit_cli.data.fetch import download, hub
from clipfit_cli.data.fetch.hub import located, reach
from clipfit_cli.data.fetch.transfer import Received, checked
from clipfit_cli.data.sources import HUB, Source
from clipfit_cli.errors import DataError
from tests.data.mirror import Mirror, serving
from tests.models.hub_server import use_endpoint

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(download, "PAUSES_S", AT_ONCE)
    with serving() as running:
        running.files["/a.zip"] = CONTENT
        yield running


def fetch(mirror: Mirror, folder: Path, path: str = "/a.zip", **options: Any) -> bytes:
    download.download(mirror.url + path, folder / "a.zip", **options)
    return (folder / "a.zip").read_bytes()


def test_whole(mirror: Mirror, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert fetch(mirror, tmp_path, progress=lambda *step: seen.append(step)) == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_known_digests(kind: str, mirror: Mirror, tmp_path: Path) -> None:
    digest = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    fetch(mirror, tmp_path, digest=digest, size=len(CONTENT))
    assert checked(tmp_path / "a.zip", digest) == Received(tmp_path / "a.zip", len(CONTENT), SHA256, confirmed=True)
    assert not checked(tmp_path / "a.zip", None).confirmed
    with pytest.raises(DataError, match=f"a.zip has the wrong {kind}, [0-9a-f]+ instead of 00; remove it"):
        checked(tmp_path / "a.zip", f"{kind}:00")
    assert (tmp_path / "a.zip").exists()
    with pytest.raises(DataError, match=f"^http://x has the wrong {kind}, [0-9a-f]+ instead of 00; it was removed"):
        checked(tmp_path / "a.zip", f"{kind}:00", "http://x")
    assert not list(tmp_path.iterdir())


def test_another_size(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1,048,576 bytes instead of 7"):
        fetch(mirror, tmp_path, size=7)
    assert not list(tmp_path.iterdir())


def test_more_than_its_size(mirror: Mirror, tmp_path: Path) -> None:
    """Of a server that does not say how much it sends."""
    mirror.lengths = False
    with pytest.raises(DataError, match="more came than the 300,000 bytes"):
        fetch(mirror, tmp_path, size=300_000)
    assert (tmp_path / "a.part").stat().st_size < 600_000
    assert fetch(mirror, tmp_path, size=len(CONTENT)) == CONTENT == fetch(mirror, tmp_path)


@pytest.mark.parametrize("etags", [True, False])
def test_resumed_at_once(etags: bool, mirror: Mirror, tmp_path: Path) -> None:
    """Without an ETag only by the call that saw the beginning."""
    mirror.etags = etags
    mirror.cuts["/a.zip"] = [300_000, 1]
    assert fetch(mirror, tmp_path) == CONTENT
    assert mirror.asked("/a.zip") == [None, "bytes=300000-", "bytes=300001-"]
    assert mirror.sent == len(CONTENT)


def test_resumed_by_the_next_call(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError, match="broke off after 300,000 of 1,048,576 bytes .300 kB are kept"):
        fetch(mirror, tmp_path)
    assert (tmp_path / "a.part").stat().st_size == 300_000
    mirror.requests.clear()
    started: list[tuple[int, int | None]] = []
    assert fetch(mirror, tmp_path, progress=lambda *known: started.append(known)) == CONTENT
    assert mirror.asked("/a.zip") == ["bytes=300000-"]
    assert mirror.sent == len(CONTENT) - 300_000 and started[0] == (300_000, len(CONTENT))


def test_interrupted_between_the_last_byte_and_the_name(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT)
    (tmp_path / "a.part.txt").write_text(f"{mirror.url}/a.zip\nsha256:{SHA256}")
    assert fetch(mirror, tmp_path, digest=f"sha256:{SHA256}", size=len(CONTENT)) == CONTENT
    assert not mirror.requests and {path.name for path in tmp_path.iterdir()} == {"a.zip"}


@pytest.mark.parametrize("lost", ["a.part.txt", "a.part", "etag", "address", "digest", "encoding"])
def test_a_part_of_unknown_origin_is_not_continued(lost: str, mirror: Mirror, tmp_path: Path) -> None:
    mirror.etags = lost != "etag"
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(mirror, tmp_path)
    (tmp_path / lost).unlink(missing_ok=True)
    if lost == "encoding":
        (tmp_path / "a.part.txt").write_bytes(b"\xff\n\xff")
    mirror.requests.clear()
    mirror.files["/b.zip"] = CONTENT
    path = "/b.zip" if lost == "address" else "/a.zip"
    assert fetch(mirror, tmp_path, path, digest=f"sha256:{SHA256}" if lost == "digest" else None) == CONTENT
    assert mirror.asked(path) == [None]


def test_a_file_that_changed_meanwhile(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(mirror, tmp_path)
    mirror.files["/a.zip"] = CONTENT[::-1]
    assert fetch(mirror, tmp_path) == CONTENT[::-1]


def test_a_part_that_is_longer_than_the_file(mirror: Mirror, tmp_path: Path) -> None:
    digest = f"sha256:{SHA256}"
    (tmp_path / "a.part").write_bytes(CONTENT * 2)
    (tmp_path / "a.part.txt").write_text(f"{mirror.url}/a.zip\n{digest}")
    assert fetch(mirror, tmp_path, digest=digest) == CONTENT
    assert mirror.asked("/a.zip") == [f"bytes={2 * len(CONTENT)}-", None]


def test_a_server_without_ranges(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.cuts["/a.zip"] = [300_000, 200_000]
    assert fetch(mirror, tmp_path) == CONTENT
    assert mirror.sent == len(CONTENT) + 500_000


def test_a_busy_server(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses["/a.zip"] = [503, 429, 500]
    assert fetch(mirror, tmp_path) == CONTENT
    mirror.statuses["/a.zip"] = [503] * 9
    (tmp_path / "a.zip").unlink()
    with pytest.raises(DataError, match="answers 503"):
        fetch(mirror, tmp_path)
    assert len(mirror.statuses["/a.zip"]) == 5


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_no_patience_with_a_plain_no(status: int, mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses["/a.zip"] = [status] * 2
    with pytest.raises(DataError, match=f"answers {status}"):
        fetch(mirror, tmp_path)
    assert len(mirror.requests) == 1


def test_a_page_in_place_of_the_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page came instead"):
        fetch(mirror, tmp_path)


def test_nobody_there(tmp_path: Path) -> None:
    with serving() as gone:
        pass
    with pytest.raises(DataError, match="no answer"):
        fetch(gone, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "ftp://a.example/x", "", "http://", "http://[", f"https://{'a' * 70}/x", "http://a:b/"],
)
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer"):
        download.download(url, tmp_path / "x.zip")


def test_behind_a_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that drops everything: the patience is for each address of a host, and nothing is tried again."""
    asked: list[float] = []

    def connect(address: object, timeout: float) -> None:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("socket.create_connection", connect)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for source in (Source(HUB + "a/b/resolve/c/d.zip", "mirror", ".zip"), Source("https://a.example/x", "authors", "")):
        with pytest.raises(DataError, match=r"https://.*: no answer \(timed out\)$"):
            download.download(*located(source)[:1], Path("nowhere.zip"))
    assert asked == [hub.PATIENCE_S] * 2 and hub.PATIENCE_S <= 5
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    reach("https://a.example/x")


@pytest.fixture
def on_hub(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Source:
    """An archive on a hub whose large files lie in another store."""
    use_endpoint(mirror.url, tmp_path / "cache", monkeypatch)
    mirror.redirects["/a/b/resolve/c/d.zip"] = mirror.url.replace("127.0.0.1", "localhost") + "/a.zip"
    mirror.linked_etag = f'"{SHA256}"'
    return Source(HUB + "a/b/resolve/c/d.zip", "mirror", ".zip")


def test_what_the_hub_tells(mirror: Mirror, on_hub: Source) -> None:
    url = mirror.url + "/a/b/resolve/c/d.zip"
    assert located(on_hub) == (url, None, f"sha256:{SHA256}")
    pinned = replace(on_hub, size=7, digest="md5:0")
    assert located(pinned) == (url, 7, "md5:0")
    with pytest.raises(DataError, match=f"the hub has another file, sha256:{SHA256} instead of sha256:00"):
        located(replace(on_hub, digest="sha256:00"))
    mirror.redirects.clear()
    with pytest.raises(DataError, match=r"/d\.zip: the hub answers 404$"):
        located(on_hub)
    mirror.statuses["/a/b/resolve/c/d.zip"] = [503]
    assert located(pinned) == (url, 7, "md5:0"), "who fetches it tries again"
    mirror.files["/a/b/resolve/c/d.zip"] = b"small"
    assert located(on_hub) == (url, 5, None)
    assert located(replace(on_hub, url="http://a.example/x", size=3)) == ("http://a.example/x", 3, None)


def test_the_hub_may_answer_from_another_store(mirror: Mirror, on_hub: Source, tmp_path: Path) -> None:
    """The digest that the hub tells, not the ETag of a store, decides whether it is still the same file."""
    url, size, digest = located(on_hub)
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError, match="300 kB are kept"):
        download.download(url, tmp_path / "a.zip", size=size, digest=digest)
    mirror.etags = False
    download.download(url, tmp_path / "a.zip", size=size, digest=digest)
    assert checked(tmp_path / "a.zip", digest).confirmed and mirror.sent == len(CONTENT)


def test_never_from_https_to_http() -> None:
    request = Request("https://a.example/x")
    for target in ("http://a.example/x", "ftp://a.example/x"):
        with pytest.raises(DataError, match="not encrypted"):
            download._Redirects().redirect_request(request, io.BytesIO(), 302, "", Message(), target)
    plain = Request("http://a.example/x")
    with pytest.raises(DataError, match="refused"):
        download._Redirects().redirect_request(plain, io.BytesIO(), 302, "", Message(), "ftp://a.example/x")


def test_a_disk_that_fills_up(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Small:
        """A file on a disk with room for 400 kB."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 400_000

        def __enter__(self) -> Small:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, block: bytes) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = min(self.left, len(block))
            self.left -= count
            written: int = self.file.write(block[:count])
            return written

    with monkeypatch.context() as patched:
        patched.setattr(
            Path,
            "open",
            lambda self, mode, **more: Small(real(self, mode, **more)) if mode == "ab" else real(self, mode, **more),
        )
        with pytest.raises(NoSpaceError, match=r"the disk is full: .*a\.part could not be written \(400 kB are kept"):
            fetch(mirror, tmp_path)
    assert (tmp_path / "a.part").stat().st_size == 400_000
    mirror.requests.clear()
    assert fetch(mirror, tmp_path) == CONTENT
    assert mirror.asked("/a.zip") == ["bytes=400000-"]


def test_refused_before_the_first_byte(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e6})())
    with pytest.raises(NoSpaceError, match="a.zip needs about 1.05 MB below .*, where 1 MB are free. Make room"):
        fetch(mirror, tmp_path, progress=lambda have, total: check_room(tmp_path / "x", total or 0, what="a.zip"))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_a_part(mirror: Mirror, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(mirror, tmp_path, progress=interrupt)
    assert fetch(mirror, tmp_path) == CONTENT
    first, second = mirror.asked("/a.zip")
    assert first is None and 500_000 < int(str(second)[len("bytes=") : -1]) <= 500_000 + (1 << 18)


def test_where_nothing_can_be_written(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        fetch(mirror, tmp_path / "file")


def test_sizes_for_people() -> None:
    sizes = [readable_size(size) for size in (12, 1234, 94.8e6, 626_071_992, 39_182_693_483, 5e12)]
    assert sizes == ["12 bytes", "1.23 kB", "94.8 MB", "626 MB", "39.2 GB", "5,000 GB"]
