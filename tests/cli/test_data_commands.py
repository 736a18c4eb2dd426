"""`clipfit data get`, `check` and `path` as a user meets them: tables, messages, exit codes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.data import catalog, sources
from clipfit_cli.data.fetch import download
from clipfit_cli.data.sources import Source
from tests.data.mirror import Mirror, files_below, serving, tar_of, zip_of
from tests.data.trees import small_lists, write_images, write_split


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "160", **environment})


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Path -> content of a small ``dtd`` that counts as the published one."""
    row = replace(catalog.row("dtd"), num_classes=3, num_train=9, num_val=3, num_test=6)
    monkeypatch.setitem(catalog._BY_NAME, "dtd", row)
    write_split(tmp_path / "made", "dtd", small_lists(), images=True)
    made = files_below(tmp_path / "made")
    sha256 = hashlib.sha256(made[f"dtd/{row.split_file}"]).hexdigest()
    monkeypatch.setitem(sources._SPLIT_SHA256, "dtd", sha256)
    for name in ("CLIPFIT_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSES_S", (0.0,))
    return made


@pytest.fixture
def mirror(tree: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serving() as running:
        running.files["/dtd.zip"] = zip_of(tree)
        monkeypatch.setitem(sources._SOURCES, "dtd", (Source(running.url + "/dtd.zip", "mirror", ".zip", 0.1),))
        yield running


@pytest.fixture
def root(tree: dict[str, bytes], tmp_path: Path) -> Path:
    """A data root with the small ``dtd`` in it."""
    for path, content in tree.items():
        target = tmp_path / "data" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "data"


def test_get_and_check(mirror: Mirror, tmp_path: Path) -> None:
    data = ["--data-root", str(tmp_path / "data")]
    got = invoke("get", "dtd,textures", *data, "--json")
    assert got.exit_code == 0, got.stderr
    first, second = json.loads(got.stdout)["rows"]
    assert (first["dataset"], first["state"], first["sha256_state"]) == ("dtd", "fetched", "unconfirmed")
    assert first["size_bytes"] == len(mirror.files["/dtd.zip"]) and len(first["sha256"]) == 64
    assert (second["dataset"], second["state"]) == ("textures", "built-in")
    for part in ("100 kB from 127.0.0.1", "re-upload by a third party", "licence of the images: research purposes"):
        assert part in got.stderr
    assert f"sha256 {first['sha256']} (unconfirmed" in got.stderr and "textures: needs no download" in got.stderr
    again = invoke("get", "dtd", *data, "--csv", "-")
    assert [row["state"] for row in rows_of(again.stdout)] == ["already there"] and len(mirror.requests) == 1
    checked = invoke("check", "dtd", *data, "--decode")
    assert checked.exit_code == 0 and "present" in checked.stdout and "published" in checked.stdout
    listed = {row["dataset"]: row["state"] for row in rows_of(invoke("list", *data, "--csv", "-").stdout)}
    assert listed["dtd"] == "present"


def test_get_quietly(mirror: Mirror, tmp_path: Path) -> None:
    got = invoke("get", "dtd", "--data-root", str(tmp_path / "data"), "--quiet")
    assert got.exit_code == 0 and got.stderr == "" and "fetched" in got.stdout


def hostile(tree: dict[str, bytes], kind: str) -> bytes:
    import tarfile

    special = tarfile.TarInfo("dtd/images/device")
    special.type = tarfile.CHRTYPE if kind == "device" else tarfile.SYMTYPE
    special.linkname = "/etc/passwd"
    return {
        "parent": zip_of({**tree, "../x": b"x"}),
        "absolute": zip_of({**tree, "/x": b"x"}),
        "bomb": zip_of({**tree, "x": bytes(1 << 26)}),
        "link": tar_of(tree, special),
        "device": tar_of(tree, special),
        "wrong": b"PK no archive",
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("parent", "leads out of its folder, '../x'; refused"),
        ("absolute", "absolute path, '/x'; refused"),
        ("bomb", "would unpack to more than"),
        ("link", "a link, a device or the like, 'dtd/images/device'; refused"),
        ("device", "a link, a device or the like"),
        ("wrong", "not a sound zip or tar archive"),
    ],
)
def test_hostile_archives(kind: str, message: str, mirror: Mirror, tree: dict[str, bytes], tmp_path: Path) -> None:
    mirror.files["/dtd.zip"] = hostile(tree, kind)
    before = set(tmp_path.rglob("*"))
    got = invoke("get", "dtd", "--data-root", str(tmp_path / "data"), "--csv", "-")
    assert got.exit_code == 3 and message in got.stderr and "By hand" in got.stderr
    assert [row["state"] for row in rows_of(got.stdout)] == ["failed"]
    left = {path.relative_to(tmp_path).as_posix() for path in set(tmp_path.rglob("*")) - before}
    assert left <= {"data", "data/.downloads", "data/.downloads/dtd.lock"}


def test_one_failure_does_not_stop_the_others(mirror: Mirror, tmp_path: Path) -> None:
    got = invoke("get", "imagenet", "dtd", "--data-root", str(tmp_path / "data"), "--csv", "-")
    assert got.exit_code == 3 and "huggingface.co/datasets/ILSVRC/imagenet-1k" in got.stderr
    assert [(row["dataset"], row["state"]) for row in rows_of(got.stdout)] == [
        ("imagenet", "failed"),
        ("dtd", "fetched"),
    ]


def test_a_full_disk_stops_all(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    got = invoke("get", "dtd", "eurosat", "--data-root", str(tmp_path / "data"), "--csv", "-")
    assert got.exit_code == 3 and "where 1 kB are free" in got.stderr
    assert [row["state"] for row in rows_of(got.stdout)] == ["failed", "not tried"]


@pytest.mark.parametrize("how", ["--offline", "HF_HUB_OFFLINE", "CLIPFIT_OFFLINE"])
def test_offline(how: str, mirror: Mirror, tmp_path: Path) -> None:
    data = ["--data-root", str(tmp_path / "data")]
    got = invoke("get", "dtd", *data, how) if how == "--offline" else invoke("get", "dtd", *data, **{how: "1"})
    assert got.exit_code == 3 and mirror.requests == []
    for part in ("the network is not to be touched", "dtd-mirror.zip", str(tmp_path / "data" / ".downloads")):
        assert part in got.stderr


def test_the_plan_needs_no_network(tmp_path: Path) -> None:
    got = invoke("get", "all", "--dry-run", "--data-root", str(tmp_path / "data"), "--csv", "-")
    assert got.exit_code == 0 and not (tmp_path / "data").exists()
    rows = rows_of(got.stdout)
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == [
        *catalog.FEW_SHOT_DATASETS,
        *catalog.IMAGENET_VARIANTS,
    ]
    assert {row["origin"] for row in rows} == {"mirror", "authors", "your own copy"}
    assert all(row["licence"] and row["url"].startswith("https://") for row in rows)
    shown = invoke("get", "dtd", "textures", "--dry-run", "--data-root", str(tmp_path))
    assert "626" in shown.stdout and "huggingface.co" in shown.stdout and "built-in" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "dtdd"], 2, "unknown data set 'dtdd'. Did you mean 'dtd'?"),
        (["get", ","], 2, "a name is missing in ','"),
        (["get", "dtd", "--imagenet-root", "x"], 2, "--imagenet-root is for imagenet"),
        (["get", "imagenet", "--imagenet-root", "nowhere"], 3, "is not laid out as ImageNet"),
        (["get", "imagenet", "--imagenet-root", "x" * 300], 3, "cannot read or write"),
        (["get", "imagenet", "--imagenet-root", "~nosuchuser/x"], 2, "give the whole path"),
        (["get", "dtd", "--data-root", "x" * 300], 3, "cannot read or write"),
        (["get", "dtd", "--data-root", "/dev/null"], 3, "cannot read or write /dev/null"),
        (["get", "dtd", "--data-root", "~nosuchuser/x"], 2, "give the whole path"),
        (["get", "dtd", "--csv", "-", "--json"], 2, "both want stdout"),
        (["check", "dtdd"], 2, "unknown data set"),
        (["check", ","], 2, "a name is missing in ','"),
        (["check", "./nowhere"], 3, "there is no folder or file ./nowhere"),
        (["check", "dtd"], 3, "1 of 1 data sets are not complete: dtd is missing"),
        (["path", "dtdd"], 2, "unknown data set"),
        (["path", "textures"], 2, "is built in: it has no folder"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = invoke(*arguments, CLIPFIT_DATA=str(tmp_path), CLIPFIT_OFFLINE="1")
    assert result.exit_code == code and message in result.stderr


def test_check_names_what_is_wrong(root: Path) -> None:
    (root / "dtd/images/ant/train_0.jpg").unlink()
    broken = root / "dtd/images/cow/test_1.jpg"
    broken.write_bytes(broken.read_bytes()[:40])
    arguments = ["check", "dtd", "textures", "--decode", "--data-root", str(root)]
    shown = invoke(*arguments)
    assert shown.exit_code == 3 and "1 of 2 data sets are not complete: dtd is damaged" in shown.stderr
    assert "missing: ant/train_0.jpg" in shown.stdout and f"damaged: image {broken}" in " ".join(shown.stdout.split())
    rows = rows_of(invoke(*arguments, "--csv", "-").stdout)
    assert [(row["what"], row["state"], row["path"]) for row in rows] == [
        ("data set", "damaged", ""),
        ("missing image", "missing", "ant/train_0.jpg"),
        ("damaged image", "damaged", "cow/test_1.jpg"),
        ("data set", "built-in", ""),
    ]
    assert (rows[0]["num_listed"], rows[0]["num_missing"], rows[0]["num_damaged"]) == ("18", "1", "1")
    assert rows[0]["list_state"] == "published" and len(rows[0]["list_sha256"]) == 64
    assert len(json.loads(invoke(*arguments, "--json").stdout)["rows"]) == 4


def test_check_names_twenty_to_people_and_all_to_programs(root: Path) -> None:
    train = [(f"train{k}.jpg", k % 2, "ant" if k % 2 else "bee") for k in range(25)]
    write_split(root, "dtd", {"train": train, "val": [], "test": [("test0.jpg", 1, "ant")]})
    shown = invoke("check", "dtd", "--data-root", str(root))
    assert shown.exit_code == 3
    assert shown.stdout.count("missing: ") == 20 and "6 more; --csv FILE or --json names them all" in shown.stdout
    rows = rows_of(invoke("check", "dtd", "--data-root", str(root), "--csv", "-").stdout)
    assert sum(row["what"] == "missing image" for row in rows) == 26


def test_check_and_show_of_own_images(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "mine", [f"{kind}/{k}.jpg" for kind in ("cat", "dog") for k in range(30)])
    assert invoke("check", str(tmp_path / "mine"), "dtd", "--decode", "--data-root", str(root)).exit_code == 0
    for k in range(25):
        (tmp_path / f"mine/dog/{k}.jpg").write_text("no image")
    (tmp_path / "mine/cat/1.jpg").write_bytes(b"")
    quick = invoke("check", f"pets2={tmp_path / 'mine'}")
    assert quick.exit_code == 3 and "pets2 is damaged" in quick.stderr
    assert "cat/1.jpg is empty (0 bytes)" in " ".join(quick.stdout.split()) and "dog" not in quick.stdout
    whole = invoke("check", str(tmp_path / "mine"), "dtd", "--decode", "--data-root", str(root), "--csv", "-")
    assert whole.exit_code == 3 and "1 of 2 data sets are not complete: mine is damaged" in whole.stderr
    rows = rows_of(whole.stdout)
    damaged = {row["path"] for row in rows if row["what"] == "damaged image"}
    assert damaged == {"cat/1.jpg", *(f"dog/{k}.jpg" for k in range(25))}
    assert [(row["dataset"], row["num_listed"], row["num_damaged"]) for row in rows if row["what"] == "data set"] == [
        ("mine", "60", "26"),
        ("dtd", "18", "0"),
    ]
    shown = " ".join(invoke("show", str(tmp_path / "mine")).stdout.split())
    assert "empty 1 listed image, the first is cat/1.jpg" in shown and "missing" not in shown
    table = tmp_path / "mine.csv"
    table.write_text("path,class_name\nmine/cat/1.jpg,a\nmine/cat/2.jpg,a\nmine/dog/30.jpg,b\nmine/cat/3.jpg,b\n")
    shown = " ".join(invoke("show", str(table)).stdout.split())
    assert "missing 1 listed image, the first is mine/dog/30.jpg" in shown and "empty 1 listed" in shown


def test_show_tells_the_hash_that_a_stranger_can_make(root: Path) -> None:
    shown = invoke("show", "dtd", "--data-root", str(root)).stdout
    content = (root / "dtd" / str(catalog.row("dtd").split_file)).read_bytes()
    assert re.search(rf"split sha256 +{hashlib.sha256(content).hexdigest()}", shown)


def test_check_all_are_the_fifteen(tmp_path: Path) -> None:
    result = invoke("check", "all", "--data-root", str(tmp_path), "--csv", "-")
    assert result.exit_code == 3 and len(rows_of(result.stdout)) == 15


def test_path(tmp_path: Path) -> None:
    assert invoke("path", "--data-root", str(tmp_path)).stdout == f"{tmp_path}\n"
    assert invoke("path", "caltech", CLIPFIT_DATA=str(tmp_path)).stdout == f"{tmp_path / 'caltech-101'}\n"
    assert invoke("path", CLIPFIT_DATA="").stdout.rstrip().endswith("data")
