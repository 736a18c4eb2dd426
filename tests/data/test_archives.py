"""Hostile and damaged archives: the right message, nothing outside the folder."""

from __future__ import annotations

import errno
import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipfit_cli.data.disk import NoSpaceError
from clipfit_cli.data.fetch import archives
from clipfit_cli.data.fetch.archives import Bounds, unpack
from clipfit_cli.errors import DataError
from tests.data.mirror import files_below, tar_of, zip_of

FILES = {"set/images/a/0.jpg": b"a0" * 400, "set/images/b/1.jpg": b"b1" * 400, "set/split.json": b"{}"}
KINDS = {"zip": zip_of(FILES), "tar.gz": tar_of(FILES), "tar": tar_of(FILES, mode="w")}


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_with_mode(name: str, mode: int, content: bytes = b"/etc/passwd") -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, content)
    return memory.getvalue()


def encrypted_zip() -> bytes:
    content = bytearray(zip_of({"a": b"b"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_archives(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(KINDS[kind])
    seen: list[tuple[int, int | None]] = []
    written = unpack(archive, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert files_below(tmp_path / "out") == FILES
    total = sum(map(len, FILES.values()))
    assert written == total
    assert seen[-1] == (total, total if kind == "zip" else None)


def test_what_is_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    archive.write_bytes(KINDS["zip"])
    unpack(archive, tmp_path / "out", skip=lambda path: path.endswith("1.jpg"))
    assert set(files_below(tmp_path / "out")) == set(FILES) - {"set/images/b/1.jpg"}


def test_folders_and_dots(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(tar_of({"./a/./0.jpg": b"0", "b\\1.jpg": b"1"}, member("empty", tarfile.DIRTYPE), mode="w"))
    unpack(archive, tmp_path / "out")
    assert files_below(tmp_path / "out") == {"a/0.jpg": b"0", "b/1.jpg": b"1"}
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_of({"../x": b"x"}), "leads out of its folder, '../x'"),
        (zip_of({"a/../../x": b"x"}), "leads out of its folder"),
        (zip_of({"a\\..\\..\\x": b"x"}), "leads out of its folder"),
        (zip_of({"/tmp/x": b"x"}), "absolute path, '/tmp/x'"),
        (zip_of({"\\x": b"x"}), "absolute path"),
        (zip_of({"C:/x": b"x"}), "absolute path, 'C:/x'"),
        (zip_with_mode("x", stat.S_IFLNK | 0o777), "a link, 'x'"),
        (zip_with_mode("x", stat.S_IFCHR | 0o666), "neither a file nor a folder"),
        (encrypted_zip(), "encrypted"),
        (tar_of({"../x": b"x"}), "leads out of its folder, '../x'"),
        (tar_of({"/x": b"x"}, mode="w"), "absolute path, '/x'"),
        (tar_of({}, member("x", tarfile.SYMTYPE, "/etc")), "a link, 'x'"),
        (tar_of({"y": b"y"}, member("x", tarfile.LNKTYPE, "y")), "a link, 'x'"),
        (tar_of({}, member("x", tarfile.CHRTYPE)), "neither a file nor a folder"),
        (tar_of({}, member("x", tarfile.BLKTYPE)), "neither a file nor a folder"),
        (tar_of({}, member("x", tarfile.FIFOTYPE)), "neither a file nor a folder"),
        (b"", "not a sound zip or tar archive"),
        (b"<html>sign in</html>" * 200, "not a sound zip or tar archive"),
        (KINDS["zip"][:-40], "not a sound zip or tar archive"),
        (KINDS["tar.gz"][:-40], "not a sound zip or tar archive"),
        (gzip.compress(b"no tar" * 1000), "not a sound zip or tar archive"),
        (zip_of({"a": b"file", "a/b": b"file below it"}), "cannot write"),
        (zip_of({"x" * 300: b"x"}), "cannot write"),
    ],
)
def test_refused(content: bytes, message: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = root / "archive"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=message):
        unpack(archive, root / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert {path.name for path in root.iterdir()} <= {"archive", "out"}


def test_bit_rot(tmp_path: Path) -> None:
    content = bytearray(zip_with_mode("x.jpg", stat.S_IFREG, b"pixels" * 100))
    content[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip is not a sound zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def lying_zip() -> bytes:
    """A bomb whose directory says that it is small."""
    content = zip_of({"zeros": bytes(1 << 22)})
    real, told = (1 << 22).to_bytes(4, "little"), (100).to_bytes(4, "little")
    return content.replace(real, told)


@pytest.mark.parametrize(
    "content",
    [
        zip_of({"zeros": bytes(1 << 22)}),
        zip_of({f"{k}": bytes(1 << 19) for k in range(8)}),
        tar_of({"zeros": bytes(1 << 22)}),
    ],
    ids=["one", "many", "tar"],
)
def test_bombs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(content)
    with pytest.raises(DataError):
        unpack(tmp_path / "bomb", tmp_path / "out", bounds=Bounds(slack=1 << 18))
    written = sum(len(content) for content in files_below(tmp_path / "out").values())
    assert written <= (1 << 18) + 20 * len(content)


def test_a_bomb_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(zip_of({"zeros": bytes(1 << 26)}))
    with pytest.raises(DataError, match=r"bomb\.zip would unpack to more than [\d,]+ bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert files_below(tmp_path / "out") == {}


def test_a_bomb_that_lies(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(lying_zip())
    with pytest.raises(DataError):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", bounds=Bounds(slack=1 << 18))
    assert sum(map(len, files_below(tmp_path / "out").values())) <= 1 << 19


def test_a_tar_header_as_a_bomb(tmp_path: Path) -> None:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"comment": "0" * (1 << 23)}
        archive.addfile(info)
    (tmp_path / "bomb.tgz").write_bytes(memory.getvalue())
    with pytest.raises(DataError, match="would unpack to more than"):
        unpack(tmp_path / "bomb.tgz", tmp_path / "out", bounds=Bounds(slack=1 << 18))


def test_too_many_members(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({str(k): b"" for k in range(11)}))
    with pytest.raises(DataError, match="more than 10 members"):
        unpack(tmp_path / "a.zip", tmp_path / "out", bounds=Bounds(members=10))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpaceError), (errno.EACCES, DataError)])
def test_the_disk_says_no(number: int, kind: type[DataError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, "no")

    (tmp_path / "a.zip").write_bytes(KINDS["zip"])
    monkeypatch.setattr(archives, "_write", refuse)
    with pytest.raises(kind, match=str(tmp_path / "out")) as caught:
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert type(caught.value) is kind
