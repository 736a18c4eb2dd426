"""What a text stands for, and what is checked of every data set of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog
from clipfit_cli.data.lists.own.custom import find_own, is_one_source, read_own
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import ClipfitError, ConfigError, DataError, UnknownNameError
from tests.data.own_images import write_folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_of_the_catalog_come_first(here: Path) -> None:
    for name in ("dtd", "DTD", "flowers", "textures"):
        (here / name).mkdir(exist_ok=True)
        assert find_own(name) is None
    assert find_own("./dtd") == OwnDataSet("own-dtd", "folder", str(here / "dtd"))


@pytest.mark.parametrize(
    ("text", "name", "kind", "location"),
    [
        ("my-images", "my-images", "folder", "my-images"),
        ("./my-images/", "my-images", "folder", "my-images"),
        ("my list.CSV", "my-list", "table", "my list.CSV"),
        ("a, b=c", "a-b-c", "folder", "a, b=c"),
        ("birds=my-images", "birds", "folder", "my-images"),
        ("flowers", "own-flowers", "folder", "flowers"),
        ("all", "own-all", "folder", "all"),
        (".", "here", "folder", ""),
    ],
)
def test_paths(text: str, name: str, kind: str, location: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = here / "here"
    for folder in ("my-images", "a, b=c", "flowers", "all"):
        (root / folder).mkdir(parents=True)
    (root / "my list.CSV").touch()
    monkeypatch.chdir(root)
    given = f"./{text}" if text in ("flowers", "all") else text
    own = find_own(given)
    assert own is not None
    assert (own.name, own.kind, Path(own.location)) == (name, kind, root / location)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("my-imagse", "Did you mean 'my-images' or "),
        ("labels", "Did you mean 'labels.csv'"),
        ("phto.jpg", "none of them close|Known: "),
        ("dtdd", "Did you mean 'dtd'\\?"),
    ],
)
def test_a_name_that_is_mistyped_is_looked_for_in_the_folder_too(text: str, hint: str, here: Path) -> None:
    for folder in ("my-images", "dtd"):
        (here / folder).mkdir()
    for file in ("labels.csv", "photo.jpg"):
        (here / file).touch()
    with pytest.raises(UnknownNameError, match=hint):
        find_own(text)


def test_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    (here / "mine").mkdir()
    assert find_own("~/mine") == OwnDataSet("mine", "folder", str(here / "mine"))


@pytest.mark.parametrize(
    ("text", "name", "location"),
    [
        ("hf:org/some-birds", "some-birds", "org/some-birds"),
        ("hf:org/birds:small", "birds-small", "org/birds:small"),
        ("hf:cifar100", "cifar100", "cifar100"),
        ("hf:org/dtd", "own-dtd", "org/dtd"),
        ("b=hf:org/birds", "b", "org/birds"),
        ("hf:saved", "saved", "{here}/saved"),
        ("wds:shards/{train,test}-{00..10}.tar", "shards", "{here}/shards/{{train,test}}-{{00..10}}.tar"),
        ("wds:ds/{train,test}/*.tar", "ds", "{here}/ds/{{train,test}}/*.tar"),
        ("wds:shards", "shards", "{here}/shards"),
        ("wds:https://example.org/0.tar", "example.org", "https://example.org/0.tar"),
    ],
)
def test_schemes(text: str, name: str, location: str, here: Path) -> None:
    (here / "saved").mkdir()
    own = find_own(text)
    expected = location.replace("{here}", str(here)).replace("{{", "{").replace("}}", "}")
    assert own == OwnDataSet(name, "hf" if "hf:" in text else "wds", expected)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("dtdd", UnknownNameError, "Did you mean 'dtd'"),
        ("", UnknownNameError, "unknown data set"),
        ("./nothing", DataError, "no folder or file ./nothing"),
        ("nothing.csv", DataError, "no folder or file nothing.csv"),
        ("some/where", DataError, "no folder or file"),
        ("image.png", DataError, "is no list of images"),
        ("https://example.org/x.zip", ConfigError, "is a URL"),
        ("dtd=mine", ConfigError, "'dtd' is the name of another data set"),
        ("all=mine", ConfigError, "'all' is the name of another"),
        ("wds:", ConfigError, "nothing stands behind wds:"),
        ("x=dtd", ConfigError, "has its name already"),
        ("x=nothing", UnknownNameError, "unknown data set 'nothing'"),
        (f"./{'x' * 5000}", DataError, "no folder or file"),
        ("./\0", DataError, "no folder or file"),
    ],
)
def test_texts_that_stand_for_nothing(text: str, kind: type[ClipfitError], message: str, here: Path) -> None:
    (here / "image.png").touch()
    (here / "mine").mkdir()
    with pytest.raises(kind, match=message):
        find_own(text)


def test_a_comma_in_a_path(here: Path) -> None:
    for name in ("a,b", "c"):
        (here / name).mkdir()
    (here / "c" / "x,y.tar").touch()
    for text in ("a,b", "./a,b", "n=a,b", "hf:a,b", "wds:c/x,y.tar", "wds:c/{x,z},y.tar"):
        assert is_one_source(text)
    for text in ("dtd,c", "c,a", "hf:c,hf:a", "wds:https://example.org/{a,b}.tar"):
        assert not is_one_source(text)


def test_names_of_classes(tmp_path: Path) -> None:
    root = str(write_folder(tmp_path / "mine"))
    names = ("one", "two", "three", "four", "five")
    plain, named = (read_own(OwnDataSet("mine", "folder", root, given)) for given in (None, names))
    assert named.class_names == names and named.train == plain.train
    assert named.split_sha256 != plain.split_sha256
    with pytest.raises(ConfigError, match="3 class names were given, data set 'mine' has 5 classes: Zebra, apple"):
        read_own(OwnDataSet("mine", "folder", root, names[:3]))
    with pytest.raises(ConfigError, match="'a b' and 'A_b' make the same prompt"):
        read_own(OwnDataSet("mine", "folder", root, ("a b", "c", "A_b", "d", "e")))
    with pytest.raises(ConfigError, match="a class has no name"):
        read_own(OwnDataSet("mine", "folder", root, ("a", "_", "b", "d", "e")))


def test_duplicate_folders_are_named(tmp_path: Path) -> None:
    for name in ("red car", "red_car"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    with pytest.raises(ConfigError, match="'red car' and 'red_car' make the same prompt"):
        read_own(OwnDataSet("x", "folder", str(tmp_path)))


def test_loaded_like_any_other(tmp_path: Path) -> None:
    own = OwnDataSet("mine", "folder", str(write_folder(tmp_path / "mine", splits=False)))
    dataset = load_dataset(own, tmp_path / "no-data", splits_dir=tmp_path / "splits")
    assert dataset.name == "mine" and dataset.prompt_template == catalog.prompt_template("mine") == "a photo of a {}."
    assert len(list((tmp_path / "splits").iterdir())) == 1
    assert catalog.is_known("Oxford-Pets") and not catalog.is_known("mine")
    assert catalog.prompt_template("eurosat") == "a centered satellite photo of {}."
