"""From a mirror to a data set: sources in order, checks, nothing of the user's touched."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock, SoftFileLock

from clipfit_cli.data import catalog, sources
from clipfit_cli.data.check.status import dataset_status
from clipfit_cli.data.disk import NoSpaceError
from clipfit_cli.data.fetch import download
from clipfit_cli.data.fetch.fetch import RECEIPT, get_dataset
from clipfit_cli.data.fetch.transfer import DOWNLOADS, OFFLINE_VARIABLES
from clipfit_cli.data.sources import HUB, Source, list_file
from clipfit_cli.errors import ConfigError, DataError, UnknownNameError
from tests.data.mirror import Mirror, files_below, serving, tar_of, zip_of
from tests.data.trees import small_lists, write_imagenet, write_split
from tests.models.hub_server import use_endpoint

SPLIT_NAME = "split_zhou_DescribableTextures.json"


@dataclass
class World:
    """A mirror with a small ``dtd`` and a data root to be filled.

    Attributes:
        mirror: Serves ``/dtd.zip`` (CoOp's layout), ``/dtd.tar.gz`` (images alone) and the split file.
        root: The data root; not there yet.
        tree: Path below the root -> content of the whole data set.
    """

    mirror: Mirror
    root: Path
    tree: dict[str, bytes]

    def serve(self, files: dict[str, bytes]) -> None:
        self.mirror.files["/dtd.zip"] = zip_of(files)

    def is_clean(self) -> bool:
        """Whether nothing is there but what may be: no data set, nothing unpacked."""
        left = {path.name for path in (self.root / DOWNLOADS).iterdir()} - {"dtd.lock"}
        return not (self.root / "dtd").exists() and not any("unpacked" in name for name in left)

    def is_whole(self) -> bool:
        found = {f"dtd/{path}": content for path, content in files_below(self.root / "dtd").items()}
        receipt = found.pop(f"dtd/{RECEIPT}", None)
        status = dataset_status("dtd", self.root)
        return receipt is not None and found == self.tree and status.message == ""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    row = replace(catalog.row("dtd"), num_classes=3, num_train=9, num_val=3, num_test=6)
    monkeypatch.setitem(catalog._BY_NAME, "dtd", row)
    monkeypatch.setattr(download, "PAUSES_S", (0.0, 0.0))
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    write_split(tmp_path / "made", "dtd", small_lists(), images=True)
    tree = files_below(tmp_path / "made")
    split = tree[f"dtd/{SPLIT_NAME}"]
    with serving() as mirror:
        found = (
            Source(mirror.url + "/dtd.zip", "mirror", ".zip"),
            Source(mirror.url + "/dtd.tar.gz", "authors", ".tar.gz", digest=None),
        )
        monkeypatch.setitem(sources._SOURCES, "dtd", found)
        monkeypatch.setitem(sources._SPLIT_SHA256, "dtd", hashlib.sha256(split).hexdigest())
        monkeypatch.setattr(sources, "_DRIVE", mirror.url + "/drive?id=")
        drive_id = str(row.split_url).split("/")[-2]
        images = {path: content for path, content in tree.items() if not path.endswith(".json")}
        mirror.files = {
            "/dtd.zip": zip_of(tree),
            "/dtd.tar.gz": tar_of(images),
            f"/drive?id={drive_id}": split,
        }
        yield World(mirror, tmp_path / "data", tree)


def use(monkeypatch: pytest.MonkeyPatch, *found: Source, name: str = "dtd") -> None:
    monkeypatch.setitem(sources._SOURCES, name, found)


def test_from_the_mirror(world: World) -> None:
    outcome = get_dataset("DTD", world.root)
    archive = world.mirror.files["/dtd.zip"]
    assert (outcome.name, outcome.state, outcome.folder) == ("dtd", "fetched", world.root / "dtd")
    received = outcome.archive
    assert received is not None and (received.size, received.confirmed) == (len(archive), False)
    assert received.sha256 == hashlib.sha256(archive).hexdigest() and outcome.url == world.mirror.url + "/dtd.zip"
    assert world.is_whole()
    assert {path.name for path in (world.root / DOWNLOADS).iterdir()} <= {"dtd.lock"}
    receipt = json.loads((world.root / "dtd" / RECEIPT).read_text(encoding="utf-8"))
    assert (receipt["url"], receipt["sha256"], receipt["confirmed"]) == (outcome.url, received.sha256, False)
    assert receipt["list"]["confirmed"] is True and receipt["licence"] == catalog.row("dtd").licence


def test_what_is_complete_is_left_alone(world: World) -> None:
    get_dataset("dtd", world.root)
    before = files_below(world.root)
    world.mirror.requests.clear()
    for offline in (False, True):
        assert get_dataset("dtd", world.root, offline=offline).state == "already there"
    assert world.mirror.requests == [] and files_below(world.root) == before


@pytest.mark.parametrize("lost", ["images/ant/train_0.jpg", SPLIT_NAME, None])
def test_an_incomplete_folder_is_not_touched(lost: str | None, world: World) -> None:
    (world.root / "dtd").mkdir(parents=True)
    (world.root / "dtd" / "notes.txt").write_text("mine")
    for path, content in world.tree.items():
        if lost is not None and path != f"dtd/{lost}":
            target = world.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    before = files_below(world.root)
    with pytest.raises(DataError, match=r"is there, but not the whole published data set: .*Nothing in it was touched"):
        get_dataset("dtd", world.root)
    assert files_below(world.root) == before and world.mirror.requests == []


def test_another_split_is_not_touched(world: World) -> None:
    train = [("a.jpg", 0, "a"), ("b.jpg", 1, "b")]
    write_split(world.root, "dtd", {"train": train, "val": [], "test": [("c.jpg", 0, "a")]}, images=True)
    with pytest.raises(DataError, match="not the published split: 2 classes instead of 3"):
        get_dataset("dtd", world.root)


def test_links_and_files_in_the_way(world: World, tmp_path: Path) -> None:
    world.root.mkdir()
    (world.root / "dtd").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="Nothing in it was touched"):
        get_dataset("dtd", world.root)
    (world.root / "dtd").unlink()
    (world.root / "dtd").write_text("a file")
    with pytest.raises(DataError, match="Nothing in it was touched"):
        get_dataset("dtd", world.root)


def test_an_empty_folder_is_filled(world: World) -> None:
    (world.root / "dtd").mkdir(parents=True)
    assert get_dataset("dtd", world.root).state == "fetched"
    assert world.is_whole()


def test_resumed_after_a_cut(world: World) -> None:
    size = len(world.mirror.files["/dtd.zip"])
    world.mirror.cuts["/dtd.zip"] = [1000]
    get_dataset("dtd", world.root)
    assert world.mirror.asked("/dtd.zip") == [None, "bytes=1000-"]
    assert world.mirror.sent == size and world.is_whole()


def test_the_second_source(world: World) -> None:
    """The first does not have the file; the second has images alone, and the split comes from its own place."""
    del world.mirror.files["/dtd.zip"]
    outcome = get_dataset("dtd", world.root)
    assert outcome.url == world.mirror.url + "/dtd.tar.gz" and world.is_whole()
    receipt = json.loads((world.root / "dtd" / RECEIPT).read_text(encoding="utf-8"))
    assert receipt["list"]["url"].startswith(world.mirror.url + "/drive")


def test_wrong_hash_then_the_second_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sources.sources("dtd")
    use(monkeypatch, replace(first, digest="sha256:" + "0" * 64), second)
    assert get_dataset("dtd", world.root).url == second.url
    assert world.is_whole() and not list((world.root / DOWNLOADS).glob("*mirror*.part"))


def test_no_source_works(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sources.sources("dtd")
    use(monkeypatch, replace(first, digest="sha256:" + "0" * 64), second)
    del world.mirror.files["/dtd.tar.gz"]
    with pytest.raises(DataError) as caught:
        get_dataset("dtd", world.root)
    for part in ("the wrong sha256", "answers 404", "By hand", first.url, second.url, SPLIT_NAME, "DATASETS.md"):
        assert part in str(caught.value)
    assert world.is_clean()


def damaged(tree: dict[str, bytes], change: str) -> dict[str, bytes]:
    if change == "image":
        return {path: content for path, content in tree.items() if path != "dtd/images/bee/test_1.jpg"}
    if change == "escape":
        return {**tree, "../../escaped": b"x"}
    if change == "bomb":
        return {**tree, "dtd/zeros": bytes(1 << 26)}
    return {path.replace("images", "pictures"): content for path, content in tree.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("image", "1 listed image missing, the first is bee/test_1.jpg"),
        ("escape", "leads out of its folder"),
        ("bomb", "would unpack to more than"),
        ("layout", "has no folder 'images' in it"),
    ],
)
def test_archives_that_are_not_the_data_set(
    change: str, message: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, sources.sources("dtd")[0])
    outside = {path.name for path in tmp_path.iterdir()} | {"data"}
    world.serve(damaged(world.tree, change))
    with pytest.raises(DataError, match=message):
        get_dataset("dtd", world.root)
    assert world.is_clean() and {path.name for path in tmp_path.iterdir()} == outside
    assert {path.name for path in (world.root / DOWNLOADS).iterdir()} == {"dtd.lock"}, "nothing useless is kept"


def test_another_split_in_the_archive_is_replaced(world: World) -> None:
    world.serve({**world.tree, f"dtd/{SPLIT_NAME}": b'{"train": [], "val": [], "test": []}'})
    get_dataset("dtd", world.root)
    assert world.is_whole()


def test_full_while_the_split_is_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    del world.mirror.files["/dtd.zip"]
    (world.root / DOWNLOADS).mkdir(parents=True)
    (world.root / DOWNLOADS / SPLIT_NAME).write_bytes(world.tree[f"dtd/{SPLIT_NAME}"])
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(NoSpaceError, match=f"the disk is full: .*unpacked.*{SPLIT_NAME} could not"):
        get_dataset("dtd", world.root)
    assert world.is_clean()


def test_litter_is_left_out(world: World) -> None:
    litter = ["dtd/split_fewshot/shot_1-seed_1.pkl", "__MACOSX/dtd/._images", "dtd/.DS_Store", "dtd/images/._0.jpg"]
    world.serve({**world.tree, **dict.fromkeys(litter, b"x")})
    get_dataset("dtd", world.root)
    assert world.is_whole()


def test_an_archive_in_an_archive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tar_of({path.removeprefix("dtd/").replace("images", "pics"): c for path, c in world.tree.items()})
    source = Source(world.mirror.url + "/dtd.zip", "authors", ".zip", image_folder="pics", nested="x/inner.tar.gz")
    use(monkeypatch, source)
    world.serve({"x/inner.tar.gz": inner})
    get_dataset("dtd", world.root)
    assert world.is_whole()
    use(monkeypatch, replace(source, nested="x/other.tar.gz"))
    with pytest.raises(DataError, match=r"has no x/other\.tar\.gz in it"):
        get_dataset("dtd", world.root.with_name("more"))


def test_an_archive_put_there_by_hand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.root / DOWNLOADS).mkdir(parents=True)
    by_hand = world.root / DOWNLOADS / "dtd-mirror.zip"
    by_hand.write_bytes(world.mirror.files["/dtd.zip"])
    first = sources.sources("dtd")[0]
    use(monkeypatch, replace(first, digest="sha256:" + "0" * 64))
    with pytest.raises(DataError, match="the wrong sha256"):
        get_dataset("dtd", world.root, offline=True)
    use(monkeypatch, replace(first, digest="md5:" + hashlib.md5(by_hand.read_bytes()).hexdigest()))
    outcome = get_dataset("dtd", world.root, offline=True)
    assert outcome.state == "fetched" and outcome.archive and outcome.archive.confirmed and world.is_whole()
    assert by_hand.exists(), "it is the user's"
    assert world.mirror.requests == []


def test_an_archive_put_beside_a_broken_download_stays(world: World) -> None:
    world.mirror.cuts["/dtd.zip"] = [1000] + [0] * 9
    del world.mirror.files["/dtd.tar.gz"]
    with pytest.raises(DataError, match="are kept, the same command goes on from there"):
        get_dataset("dtd", world.root)
    by_hand = world.root / DOWNLOADS / "dtd-mirror.zip"
    by_hand.write_bytes(world.mirror.files["/dtd.zip"])
    get_dataset("dtd", world.root, offline=True)
    assert world.is_whole() and by_hand.exists()


def test_images_and_split_put_there_by_hand(world: World) -> None:
    (world.root / DOWNLOADS).mkdir(parents=True)
    (world.root / DOWNLOADS / "dtd-authors.tar.gz").write_bytes(world.mirror.files["/dtd.tar.gz"])
    with pytest.raises(DataError, match=f"{SPLIT_NAME} is not there .from http"):
        get_dataset("dtd", world.root, offline=True)
    (world.root / DOWNLOADS / SPLIT_NAME).write_bytes(world.tree[f"dtd/{SPLIT_NAME}"])
    get_dataset("dtd", world.root, offline=True)
    assert world.is_whole() and world.mirror.requests == []


@pytest.mark.parametrize("variable", [None, *OFFLINE_VARIABLES])
def test_offline(variable: str | None, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    with pytest.raises(DataError) as caught:
        get_dataset("dtd", world.root, offline=variable is None)
    for part in ("the network is not to be touched", "dtd-mirror.zip", str(world.root / DOWNLOADS), SPLIT_NAME):
        assert part in str(caught.value)
    assert world.mirror.requests == []
    monkeypatch.setenv(variable or "CLIPFIT_OFFLINE", "0")
    assert get_dataset("dtd", world.root).state == "fetched"


def test_no_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before the first byte, and the second source is not asked."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2000})())
    with pytest.raises(NoSpaceError, match="dtd, archive and images, needs about .* where 2 kB are free"):
        get_dataset("dtd", world.root)
    assert world.is_clean() and [path for path, _, _ in world.mirror.requests] == ["/dtd.zip"]


def test_full_while_unpacking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is kept: with room made, nothing is fetched again."""

    def full(*arguments: object) -> int:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("clipfit_cli.data.fetch.archives._take", full)
        with pytest.raises(NoSpaceError):
            get_dataset("dtd", world.root)
    assert world.is_clean()
    world.mirror.requests.clear()
    get_dataset("dtd", world.root)
    assert world.is_whole() and world.mirror.requests == []
    assert {path.name for path in (world.root / DOWNLOADS).iterdir()} == {"dtd.lock"}, "it is ours"


def test_an_interrupt_while_unpacking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipfit_cli.data.fetch.archives._take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get_dataset("dtd", world.root)
    assert world.is_clean()


def test_a_data_root_that_cannot_be_made(world: World) -> None:
    world.root.write_text("a file")
    with pytest.raises(DataError, match="cannot read or write"):
        get_dataset("dtd", world.root)


def test_two_processes(world: World) -> None:
    """The second waits and then finds it there."""
    import threading

    outcomes: list[str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(get_dataset("dtd", world.root).state)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["already there", "fetched"]
    assert len(world.mirror.requests) == 1


def test_built_in_and_unknown(tmp_path: Path) -> None:
    assert get_dataset("textures", tmp_path / "x").state == "built-in"
    assert not (tmp_path / "x").exists()
    with pytest.raises(UnknownNameError):
        get_dataset("mnist", tmp_path)


@pytest.fixture
def own_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes a small ImageNet, its images below the given path."""
    row = replace(catalog.row("imagenet"), num_classes=2, num_train=3, num_val=2, num_test=2)
    monkeypatch.setitem(catalog._BY_NAME, "imagenet", row)
    files = {
        "train/n01440764": ["0.JPEG", "1.JPEG"],
        "train/n01443537": ["2.JPEG"],
        "val/n01440764": ["v.JPEG"],
        "val/n01443537": ["w.JPEG"],
    }

    def write(below: str) -> Path:
        made = write_imagenet(tmp_path / "made", "imagenet", files)
        own = tmp_path / "own"
        (own / below).parent.mkdir(parents=True, exist_ok=True)
        own.mkdir(exist_ok=True)
        for split in ("train", "val"):
            (own / below).mkdir(parents=True, exist_ok=True)
            (made / "images" / split).rename(own / below / split)
        (made / "classnames.txt").rename(own / "classnames.txt")
        return own

    return write


@pytest.mark.parametrize("below", ["", "images", "ILSVRC/Data/CLS-LOC"])
def test_own_imagenet(below: str, own_imagenet: Callable[[str], Path], tmp_path: Path) -> None:
    own = own_imagenet(below)
    before = files_below(own)
    outcome = get_dataset("imagenet", tmp_path / "data", imagenet_root=own, offline=True)
    assert (outcome.state, outcome.folder) == ("linked", tmp_path / "data" / "imagenet")
    assert (tmp_path / "data/imagenet/images").resolve() == (own / below).resolve()
    assert dataset_status("imagenet", tmp_path / "data").state == "present"
    assert get_dataset("imagenet", tmp_path / "data").state == "already there"
    assert files_below(own) == before


def test_class_names_of_imagenet(own_imagenet: Callable[[str], Path], world: World) -> None:
    own = own_imagenet("")
    names = own / "classnames.txt"
    text = names.read_bytes()
    names.unlink()
    with pytest.raises(DataError, match=r"classnames\.txt is not there"):
        get_dataset("imagenet", world.root, imagenet_root=own, offline=True)
    wanted = list_file(catalog.row("imagenet"))
    assert wanted is not None and not (world.root / "imagenet").exists()
    world.mirror.files[wanted.url.removeprefix(world.mirror.url)] = text
    assert get_dataset("imagenet", world.root, imagenet_root=own).state == "linked"
    assert (world.root / "imagenet" / "classnames.txt").read_bytes() == text
    assert not names.exists()


def test_no_imagenet(tmp_path: Path, own_imagenet: Callable[[str], Path]) -> None:
    with pytest.raises(DataError) as caught:
        get_dataset("imagenet", tmp_path / "data")
    for part in ("https://huggingface.co/datasets/ILSVRC/imagenet-1k", "image-net.org", "--imagenet-root", "DIR/val/"):
        assert part in str(caught.value)
    own = own_imagenet("")
    (own / "train/n01440764/0.JPEG").unlink()
    with pytest.raises(DataError, match="is not whole: .*2 training images instead of 3"):
        get_dataset("imagenet", tmp_path / "data", imagenet_root=own)
    assert own.is_dir() and not (tmp_path / "data" / "imagenet").exists()
    for folder in (own / "val").iterdir():
        folder.rename(tmp_path / folder.name)
    with pytest.raises(DataError, match="has no folder per class"):
        get_dataset("imagenet", tmp_path / "data", imagenet_root=own)


def test_a_variant_takes_the_class_names_of_imagenet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(catalog.row("imagenet_sketch"), num_classes=2, num_train=2, num_val=0, num_test=2)
    monkeypatch.setitem(catalog._BY_NAME, "imagenet_sketch", row)
    source = Source(world.mirror.url + "/s.zip", "authors", ".zip", image_folder="sketch")
    use(monkeypatch, source, name="imagenet_sketch")
    world.mirror.files["/s.zip"] = zip_of({"sketch/n01440764/a.JPEG": b"a", "sketch/n01443537/b.JPEG": b"b"})
    write_imagenet(world.root, "imagenet", {"train/n01440764": ["0.JPEG"]})
    assert get_dataset("imagenet_sketch", world.root).state == "fetched"
    assert (world.root / "imagenet-sketch/images/n01440764/a.JPEG").read_bytes() == b"a"
    assert (world.root / "imagenet-sketch/classnames.txt").is_file() and (
        world.root / "imagenet/classnames.txt"
    ).is_file()


def test_every_published_set_has_a_way() -> None:
    for name in (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS):
        found = sources.sources(name)
        assert bool(found) == (name != "imagenet")
        assert len({source.file_name(name) for source in found}) == len(found)
        for source in found:
            assert source.url.startswith("https://")
            kind, _, value = (source.digest or "md5:" + "0" * 32).partition(":")
            assert len(value) == {"sha256": 64, "md5": 32}[kind]
        row, wanted = catalog.row(name), list_file(catalog.row(name))
        if row.split_file:
            assert (
                wanted is not None and wanted.name == row.split_file and str(row.split_url).split("/")[-2] in wanted.url
            )


def test_from_the_hub(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its library finds the file, at another endpoint too; what broke off is kept for the next call."""
    use_endpoint(world.mirror.url, tmp_path / "cache", monkeypatch)
    content = world.mirror.files.pop("/dtd.zip")
    world.mirror.files["/stored"] = content
    world.mirror.redirects["/a/b/resolve/c/dtd.zip"] = world.mirror.url.replace("127.0.0.1", "localhost") + "/stored"
    world.mirror.linked_etag = f'"{hashlib.sha256(content).hexdigest()}"'
    world.mirror.cuts["/stored"] = [1000] + [0] * 9
    use(monkeypatch, Source(HUB + "a/b/resolve/c/dtd.zip", "mirror", ".zip"))
    with pytest.raises(DataError, match="1 kB are kept, the same command goes on from there"):
        get_dataset("dtd", world.root)
    world.mirror.cuts.clear()
    outcome = get_dataset("dtd", world.root)
    assert world.mirror.asked("/stored")[-1] == "bytes=1000-" and world.mirror.sent == len(content)
    assert outcome.archive is not None and outcome.archive.confirmed, "by the digest that the hub tells"
    assert outcome.url == HUB + "a/b/resolve/c/dtd.zip" and world.is_whole()


def test_a_hub_out_of_reach_then_the_authors(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving() as gone:
        use_endpoint(gone.url, tmp_path / "cache", monkeypatch)
    authors = sources.sources("dtd")[1]
    use(monkeypatch, Source(HUB + "a/b/resolve/c/dtd.zip", "mirror", ".zip"), authors)
    said: list[str] = []
    assert get_dataset("dtd", world.root, say=said.append).url == authors.url
    assert [line.endswith("; trying the next source") for line in said if "no answer" in line] == [True]


@pytest.mark.parametrize("before", ["missing", "complete"])
def test_litter_of_killed_commands(before: str, world: World) -> None:
    """Killed while it unpacked, or between the last step and its cleaning up; what is resumable or in work stays."""
    if before == "complete":
        get_dataset("dtd", world.root)
    downloads = world.root / DOWNLOADS
    for name in ("dtd.unpacked/archive/a.jpg", "eurosat.unpacked/a", "food101.unpacked/a", "dtd-authors.tar.gz.part"):
        (downloads / name).parent.mkdir(parents=True, exist_ok=True)
        (downloads / name).write_bytes(b"x")
    (downloads / "dtd-authors.tar.gz.part.txt").write_text("x")
    (downloads / "food101-mirror.zip.part").write_text("x")
    if before == "complete":
        (downloads / "dtd-mirror.zip.fetched").write_bytes(b"x")
    with FileLock(downloads / "food101.lock"):
        assert get_dataset("dtd", world.root).state == ("fetched" if before == "missing" else "already there")
    left = {path.name for path in downloads.iterdir() if path.suffix != ".lock"}
    stays = {"food101.unpacked", "food101-mirror.zip.part"} | ({"eurosat.unpacked"} if before == "complete" else set())
    assert left == stays and world.is_whole()


def test_where_a_file_system_has_no_locks_a_killed_command_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is a mere file would stay, and what others are unpacking nobody can tell from litter."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    downloads = world.root / DOWNLOADS
    (downloads / "eurosat.unpacked").mkdir(parents=True)
    with SoftFileLock(downloads / "dtd.lock"):
        assert get_dataset("dtd", world.root).state == "fetched"
    assert world.is_whole() and {path.name for path in downloads.iterdir()} == {"eurosat.unpacked"}


def test_two_image_folders(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Source(world.mirror.url + "/dtd.zip", "authors", ".zip", image_folder="pics"))
    world.serve({**world.tree, "dtd/pics/a.jpg": b"x"})
    with pytest.raises(DataError, match="has no folder 'pics' in it, or two of the kind"):
        get_dataset("dtd", world.root)
    assert world.is_clean() and {path.name for path in (world.root / DOWNLOADS).iterdir()} == {"dtd.lock"}


LONG = "x" * 300


@pytest.mark.parametrize("name", [LONG, f"{LONG}/x", f"x/{LONG}", "x/" * 3000])
def test_names_that_no_disk_takes(name: str, world: World, tmp_path: Path, own_imagenet: Callable[[str], Path]) -> None:
    with pytest.raises(DataError, match="cannot read or write .*name too long"):
        get_dataset("dtd", tmp_path / name)
    with pytest.raises(DataError, match="cannot read or write .*name too long"):
        get_dataset("imagenet", world.root, imagenet_root=tmp_path / name)
    assert not world.root.exists()


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a\0b"])
def test_paths_that_are_none(name: str, world: World, own_imagenet: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError):
        get_dataset("dtd", Path(name))
    with pytest.raises(ConfigError):
        get_dataset("imagenet", world.root, imagenet_root=Path(name))


@pytest.mark.parametrize("what", ["root", "downloads", "folder", "own", "cwd"])
def test_folders_that_may_not_be_read(
    what: str, world: World, own_imagenet: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs this may be allowed everything, so that the system's answer is played."""
    import os

    own = own_imagenet("")
    (world.root / "dtd").mkdir(parents=True)
    locked = {"root": world.root, "downloads": world.root / DOWNLOADS, "folder": world.root / "dtd", "own": own}.get(
        what
    )

    def refusing(real: Callable[..., object]) -> Callable[..., object]:
        def function(path: object, *more: object, **named: object) -> object:
            if locked and Path(str(path)).is_relative_to(locked):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *more, **named)

        return function

    def no_folder() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    for name in ("scandir", "listdir") if what == "own" else ("stat", "scandir", "listdir", "mkdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    if what == "cwd":
        monkeypatch.setattr(os, "getcwd", no_folder)
    with pytest.raises(DataError, match="cannot read or write .*: (Permission denied|No such file)"):
        if what == "own":
            get_dataset("imagenet", world.root, imagenet_root=own)
        else:
            get_dataset("dtd", Path("x") if what == "cwd" else world.root)
    monkeypatch.undo()
    assert not list((world.root / "dtd").iterdir())
