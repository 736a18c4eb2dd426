"""Hostile and damaged archives: the right message, nothing outside the folder."""

from __future__ import annotations

import errno
import gzip
import io
import random
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfit_cli.data.disk import NoSpaceError
from clipfit_cli.data.fetch import archives
from clipfit_cli.data.fetch.archives import unpack
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
    unpack(archive, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert files_below(tmp_path / "out") == FILES
    total = sum(map(len, FILES.values()))
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
    ids=lambda value: value if isinstance(value, str) else "archive",  # a packed one holds the time
    argvalues=[
        (zip_of({"../x": b"x"}), "leads out of its folder, '../x'"),
        (zip_of({"a/../../x": b"x"}), "leads out of its folder"),
        (zip_of({"a\\..\\..\\x": b"x"}), "leads out of its folder"),
        (zip_of({"/tmp/x": b"x"}), "absolute path, '/tmp/x'"),
        (zip_of({"\\x": b"x"}), "absolute path"),
        (zip_of({"C:/x": b"x"}), "absolute path, 'C:/x'"),
        (zip_with_mode("x", stat.S_IFLNK | 0o777), "a link, a device or the like, 'x'"),
        (zip_with_mode("x", stat.S_IFCHR | 0o666), "a link, a device or the like"),
        (encrypted_zip(), "encrypted"),
        (tar_of({"../x": b"x"}), "leads out of its folder, '../x'"),
        (tar_of({"/x": b"x"}, mode="w"), "absolute path, '/x'"),
        (tar_of({}, member("x", tarfile.SYMTYPE, "/etc")), "a link, a device or the like, 'x'"),
        (tar_of({"y": b"y"}, member("x", tarfile.LNKTYPE, "y")), "a link, a device or the like, 'x'"),
        (tar_of({}, member("x", tarfile.CHRTYPE)), "a link, a device or the like"),
        (tar_of({}, member("x", tarfile.BLKTYPE)), "a link, a device or the like"),
        (tar_of({}, member("x", tarfile.FIFOTYPE)), "a link, a device or the like"),
        (b"", "not a sound zip or tar archive"),
        (b"<html>sign in</html>" * 200, "not a sound zip or tar archive"),
        (KINDS["zip"][:-40], "not a sound zip or tar archive"),
        (KINDS["tar.gz"][:-40], "not a sound zip or tar archive"),
        (gzip.compress(b"no tar" * 1000), "not a sound zip or tar archive"),
        (zip_of({"a": b"file", "a/b": b"file below it"}), "cannot read or write"),
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
def test_bombs(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SLACK", 1 << 18)
    (tmp_path / "bomb").write_bytes(content)
    with pytest.raises(DataError):
        unpack(tmp_path / "bomb", tmp_path / "out")
    written = sum(len(content) for content in files_below(tmp_path / "out").values())
    assert written <= (1 << 18) + 20 * len(content)


def test_a_bomb_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(zip_of({"zeros": bytes(1 << 26)}))
    with pytest.raises(DataError, match=r"bomb\.zip would unpack to more than [\d,]+ bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert files_below(tmp_path / "out") == {}


def test_a_bomb_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SLACK", 1 << 18)
    (tmp_path / "bomb.zip").write_bytes(lying_zip())
    with pytest.raises(DataError):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert sum(map(len, files_below(tmp_path / "out").values())) <= 1 << 19


def raw_header(name: str, kind: bytes, size: int) -> bytes:
    info = member(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax_header(text: str) -> bytes:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"comment": text * (1 << 23)}
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        pax_header("x"),
        pax_header("0"),  # which `tarfile` would look through for a length again and again
        raw_header("x", tarfile.GNUTYPE_LONGNAME, 1 << 50),
        raw_header("x", tarfile.XGLTYPE, 1 << 30),
        raw_header("x", tarfile.GNUTYPE_SPARSE, 1 << 30),
        raw_header("x", tarfile.REGTYPE, 1 << 60),
        raw_header("x", tarfile.REGTYPE, -(1 << 60)),
        raw_header("x", tarfile.DIRTYPE, 1 << 60),
        raw_header("x", tarfile.LNKTYPE, 1 << 60),
        raw_header("x", b"?", 1 << 60),
        b"".join(raw_header("x", tarfile.GNUTYPE_LONGNAME, 1) + b"y".ljust(512, b"\0") for _ in range(5000)),
    ],
    ids=[
        "pax",
        "pax of digits",
        "long name",
        "global",
        "sparse",
        "file",
        "negative",
        "folder",
        "link",
        "unknown",
        "chain",
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_tar_headers_as_bombs(content: bytes, packed: bool, tmp_path: Path, peak_bytes: Callable[[], int]) -> None:
    """Nothing of that size is read or written."""
    (tmp_path / "bomb").write_bytes(gzip.compress(content + bytes(1024)) if packed else content + bytes(1024))
    tracemalloc.reset_peak()
    with pytest.raises(DataError):
        unpack(tmp_path / "bomb", tmp_path / "out")
    assert peak_bytes() < 1 << 21 and files_below(tmp_path / "out") == {}


DEEP = "a/" * 1500 + "x.jpg"


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (DEEP, "more than 32 folders deep, 'a/a/.{96}'; refused"),
        (DEEP.replace("/", "\\"), "more than 32 folders deep"),
        (DEEP.rpartition("/")[0] + "/", "more than 32 folders deep"),
        ("x" * 300, "a name of more than 255 bytes, 'x{100}'; refused"),
        ("a/" + "\N{SNOWMAN}" * 86 + "/x.jpg", "a name of more than 255 bytes"),
    ],
)
def test_deep_and_long_names(name: str, message: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(zip_of({name: b"x"}) if kind == "zip" else tar_of({name: b"x"}))
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "a", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_as_deep_and_as_long_as_allowed(tmp_path: Path) -> None:
    name = "/".join(["a"] * (archives.DEPTH - 1) + ["x" * archives.NAME])
    (tmp_path / "a").write_bytes(tar_of({name: b"x"}))
    unpack(tmp_path / "a", tmp_path / "out")
    assert files_below(tmp_path / "out") == {name: b"x"}


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes(kind: str, tmp_path: Path) -> None:
    """Whatever the libraries make of them, it is a `DataError` or an archive that unpacks."""
    rng = random.Random(7)
    for number in range(150):
        content = bytearray(KINDS[kind])
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        (tmp_path / "a").write_bytes(content)
        try:
            unpack(tmp_path / "a", tmp_path / str(number))
        except DataError as error:
            assert "cannot read or write" not in str(error), "the disk is not to blame"


def test_a_python_without_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    for kind in KINDS:
        (tmp_path / kind).write_bytes(KINDS[kind])
        if kind == "zip":
            unpack(tmp_path / kind, tmp_path / "out")
        else:
            with pytest.raises(DataError, match=r"not safe to unpack with this Python; take 3\.10\.12, 3\.11\.4"):
                unpack(tmp_path / kind, tmp_path / f"out-{kind}")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 10)
    (tmp_path / "a.zip").write_bytes(zip_of({str(k): b"" for k in range(11)}))
    with pytest.raises(DataError, match="more than 10 members"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()), "the list of members says how many there are"


@pytest.mark.parametrize("number", [65_535, 70_000])
def test_a_list_of_too_many_members_is_not_read(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for index in range(number):
            made.writestr(str(index), b"")
    unpacked: list[object] = []
    monkeypatch.setattr(zipfile, "ZipFile", unpacked.append)
    monkeypatch.setattr(archives, "MEMBERS", number - 1)
    with pytest.raises(DataError, match=f"more than {number - 1:,} members"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not unpacked


def test_what_would_unpack_to_too_much_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SLACK", 1000)
    (tmp_path / "a.zip").write_bytes(zip_of({"a": b"1" * 10, "b": b"2" * 100_000}))
    with pytest.raises(DataError, match="would unpack to more than"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpaceError), (errno.EACCES, DataError)])
def test_the_disk_says_no(number: int, kind: type[DataError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, "no")

    (tmp_path / "a.zip").write_bytes(KINDS["zip"])
    monkeypatch.setattr(archives, "_take", refuse)
    with pytest.raises(kind, match=str(tmp_path / "out")) as caught:
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert type(caught.value) is kind
