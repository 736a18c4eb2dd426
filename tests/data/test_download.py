"""One file over HTTP: whole, resumed, refused; every byte is served once."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from clipfit_cli.data.disk import NoSpaceError, check_room, file_digest, readable_size
from clipfit_cli.data.fetch import download
from clipfit_cli.errors import DataError
from tests.data.mirror import Mirror, serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
AT_ONCE: list[float] = [0, 0, 0]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as running:
        running.files["/a.zip"] = CONTENT
        yield running


def fetch(mirror: Mirror, folder: Path, **options: Any) -> download.Received:
    return download.download(mirror.url + "/a.zip", folder / "a.zip", **{"pauses": AT_ONCE, **options})


def test_whole(mirror: Mirror, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    got = fetch(mirror, tmp_path, progress=lambda *step: seen.append(step))
    assert got == download.Received(tmp_path / "a.zip", len(CONTENT), SHA256, confirmed=False)
    assert got.path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "a.zip.json"}


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_known_digests(kind: str, mirror: Mirror, tmp_path: Path) -> None:
    digest = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    assert fetch(mirror, tmp_path, digest=digest, size=len(CONTENT)).confirmed
    (tmp_path / "a.zip").unlink()
    with pytest.raises(DataError, match=f"the wrong {kind}, [0-9a-f]+ instead of 00"):
        fetch(mirror, tmp_path, digest=f"{kind}:00")
    assert not list(tmp_path.iterdir())


def test_another_size(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1,048,576 bytes instead of 7"):
        fetch(mirror, tmp_path, size=7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("etags", [True, False])
def test_resumed_at_once(etags: bool, mirror: Mirror, tmp_path: Path) -> None:
    mirror.etags = etags
    mirror.cuts["/a.zip"] = [300_000, 1]
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.asked("/a.zip") == [None, "bytes=300000-", "bytes=300001-"]
    assert mirror.sent == len(CONTENT)


def test_resumed_by_the_next_call(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError, match="broke off after 300,000 of 1,048,576 bytes .300 kB are kept"):
        fetch(mirror, tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 300_000
    mirror.requests.clear()
    started: list[tuple[int | None, int]] = []
    assert fetch(mirror, tmp_path, before=lambda *known: started.append(known)).sha256 == SHA256
    assert mirror.asked("/a.zip") == ["bytes=300000-"]
    assert mirror.sent == len(CONTENT) - 300_000 and started == [(len(CONTENT), 300_000)]


def test_interrupted_between_the_last_byte_and_the_name(mirror: Mirror, tmp_path: Path) -> None:
    fetch(mirror, tmp_path)
    (tmp_path / "a.zip").rename(tmp_path / "a.zip.part")
    mirror.requests.clear()
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.sent == 0


@pytest.mark.parametrize("lost", ["a.zip.json", "etag"])
def test_a_part_of_unknown_origin_is_not_continued(lost: str, mirror: Mirror, tmp_path: Path) -> None:
    mirror.etags = lost != "etag"
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(mirror, tmp_path)
    (tmp_path / lost).unlink(missing_ok=True)
    mirror.requests.clear()
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.asked("/a.zip") == [None]


def test_a_file_that_changed_meanwhile(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(mirror, tmp_path)
    mirror.files["/a.zip"] = CONTENT[::-1]
    assert fetch(mirror, tmp_path).path.read_bytes() == CONTENT[::-1]
    mirror.files["/a.zip"] = CONTENT
    (tmp_path / "a.zip").rename(tmp_path / "a.zip.part")
    mirror.files["/a.zip"] = CONTENT[:1000]
    assert fetch(mirror, tmp_path).path.read_bytes() == CONTENT[:1000], "shorter than what was there"


def test_a_server_without_ranges(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    mirror.cuts["/a.zip"] = [300_000, 200_000]
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.sent == len(CONTENT) + 500_000


def test_a_busy_server(mirror: Mirror, tmp_path: Path) -> None:
    mirror.statuses["/a.zip"] = [503, 429, 500]
    assert fetch(mirror, tmp_path).sha256 == SHA256
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
    with pytest.raises(DataError, match="no http or https address"):
        download.download("file:///etc/hostname", tmp_path / "x")


def test_what_the_hub_announces(mirror: Mirror, tmp_path: Path) -> None:
    mirror.redirects["/hub"] = mirror.url + "/a.zip"
    mirror.linked_etag = f'"{SHA256}"'
    url, target = mirror.url + "/hub", tmp_path / "a.zip"
    assert download.download(url, target).confirmed
    target.unlink()
    with pytest.raises(DataError, match="the hub has another file"):
        download.download(url, target, digest="sha256:00")
    mirror.linked_etag = f'"{"0" * 64}"'
    with pytest.raises(DataError, match="the wrong sha256"):
        download.download(url, target)
    assert not target.exists()


def test_the_hub_may_answer_from_another_store(mirror: Mirror, tmp_path: Path) -> None:
    """The announced digest, not the ETag of a store, tells whether it is still the same file."""
    mirror.redirects["/hub"] = mirror.url + "/a.zip"
    mirror.linked_etag = f'"{SHA256}"'
    mirror.cuts["/a.zip"] = [300_000, 0, 0, 0]
    url, target = mirror.url + "/hub", tmp_path / "a.zip"
    with pytest.raises(DataError):
        download.download(url, target, pauses=AT_ONCE)
    mirror.etags = False
    assert download.download(url, target).sha256 == SHA256
    assert mirror.sent == len(CONTENT)


def test_never_from_https_to_http() -> None:
    request = Request("https://a.example/x")
    with pytest.raises(DataError, match="not encrypted"):
        download._Redirects().redirect_request(request, io.BytesIO(), 302, "", Message(), "http://a.example/x")


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
        patched.setattr(Path, "open", lambda self, *mode, **more: Small(real(self, *mode, **more)))
        with pytest.raises(NoSpaceError, match=r"the disk is full: .*a\.zip\.part could not be written .* are kept"):
            fetch(mirror, tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 400_000
    mirror.requests.clear()
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.asked("/a.zip") == ["bytes=400000-"]


def test_refused_before_the_first_byte(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e6})())
    with pytest.raises(NoSpaceError, match="a.zip needs about 1.05 MB below .*, where 1 MB are free. Make room"):
        fetch(mirror, tmp_path, before=lambda total, have: check_room(tmp_path / "x", total or 0, what="a.zip"))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_a_part(mirror: Mirror, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(mirror, tmp_path, progress=interrupt)
    assert fetch(mirror, tmp_path).sha256 == SHA256
    assert mirror.asked("/a.zip")[1] == f"bytes={2 * (1 << 18)}-"


def test_where_nothing_can_be_written(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        fetch(mirror, tmp_path / "missing")


def test_sizes_for_people() -> None:
    sizes = [readable_size(size) for size in (12, 1234, 94.8e6, 626_071_992, 39_182_693_483, 5e12)]
    assert sizes == ["12 bytes", "1.23 kB", "94.8 MB", "626 MB", "39.2 GB", "5,000 GB"]


def test_digest_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        file_digest(tmp_path / "x")
