"""Every layout on miniature trees, against what the reference read from such trees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.data import catalog
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.load import default_data_root, load_dataset
from clipfit_cli.errors import DataError, UnknownNameError
from tests.data.trees import WNIDS, Row, golden, small_lists, write_fgvc, write_imagenet, write_split

PROBE: dict[str, Any] = golden("dataset_probe.json")
SPLIT_SETS = [name for name in catalog.ALL if catalog.row(name).reader == "split_json"]


def first_train(dataset: DataSet, data_root: Path) -> str:
    """Return the first training image's path below the data root."""
    assert isinstance(dataset.load_image, ImageFolder)
    return (dataset.load_image.root / dataset.train[0].path).relative_to(data_root).as_posix()


def test_probe_covers_every_published_data_set() -> None:
    assert set(PROBE) == set(catalog.FEW_SHOT_DATASETS + catalog.IMAGENET_VARIANTS)


@pytest.mark.parametrize("name", SPLIT_SETS)
def test_split_file_layouts(name: str, tmp_path: Path) -> None:
    probe = PROBE[name]
    row = catalog.row(name)
    assert row.split_file == probe["split_json"]
    names: list[str] = probe["classnames"]
    # The reference's first row first, then the classes in turn until its counts are met.
    lists: dict[str, list[Row]] = {
        split: [(f"x/{split}_{k}.jpg", (probe["json_row"][1] + k) % len(names), "") for k in range(count)]
        for split, count in zip(("train", "val", "test"), probe["n"], strict=True)
    }
    lists = {split: [(path, label, names[label]) for path, label, _ in rows] for split, rows in lists.items()}
    lists["train"][0] = tuple(probe["json_row"])
    write_split(tmp_path, name, lists)
    dataset = load_dataset(name, tmp_path)
    assert dataset.name == name
    assert dataset.prompt_template == row.prompt_template
    assert list(dataset.class_names) == names
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == probe["n"]
    assert first_train(dataset, tmp_path) == probe["first_train"]
    assert dataset.train[0].label == probe["json_row"][1]
    assert dataset.samples_val and dataset.train_is_sampled


def test_fgvc_lists(tmp_path: Path) -> None:
    probe = PROBE["fgvc_aircraft"]
    write_fgvc(tmp_path, probe["classnames"], {"train": 5, "val": 5, "test": 5})
    dataset = load_dataset("aircraft", tmp_path)
    assert list(dataset.class_names) == probe["classnames"]
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == probe["n"]
    assert first_train(dataset, tmp_path) == probe["first_train"]
    assert [item.label for item in dataset.train] == [0] * 5 + [1] * 5 + [2] * 5


def test_imagenet_folders(tmp_path: Path) -> None:
    probe = PROBE["imagenet"]
    files = {f"train/{wnid}": [f"{wnid}_{k}.JPEG" for k in range(20)] for wnid in reversed(WNIDS)}
    files |= {f"val/{wnid}": [f"val_{k}.JPEG" for k in range(5)] for wnid in reversed(WNIDS)}
    write_imagenet(tmp_path, "imagenet", files)
    (tmp_path / "imagenet/images/train/n01440764/._hidden.JPEG").touch()
    (tmp_path / "imagenet/images/train/README.txt").touch()
    dataset = load_dataset("imagenet", tmp_path)
    assert list(dataset.class_names) == probe["classnames"]
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == probe["n"]
    assert (dataset.val == dataset.test) is probe["val_is_test"]
    assert not dataset.samples_val
    # Sorted file names, where the reference takes the file system's order (here it met n01440764_8 first).
    assert Path(first_train(dataset, tmp_path)).parent == Path(probe["first_train"]).parent
    assert dataset.train[0].path == "train/n01440764/n01440764_0.JPEG"
    assert [item.path for item in dataset.train] == sorted(item.path for item in dataset.train)
    assert dataset.test[-1].path == "val/n01491361/val_4.JPEG" and dataset.test[-1].label == 3


@pytest.mark.parametrize(
    ("name", "wnids", "file"),
    [
        ("imagenet_sketch", list(WNIDS), "sketch_{}.JPEG"),
        ("imagenet_a", ["n01443537", "n01491361"], "{}.jpg"),
        ("imagenet_r", ["n01443537", "n01491361"], "{}.jpg"),
    ],
)
def test_imagenet_variants_count_their_own_folders(name: str, wnids: list[str], file: str, tmp_path: Path) -> None:
    probe = PROBE[name]
    count = probe["n"][0] // len(wnids)
    folder = write_imagenet(tmp_path, name, {w: [file.format(k) for k in range(count)] for w in wnids})
    (folder / catalog.row(name).image_folder / "README.txt").touch()
    dataset = load_dataset(name, tmp_path)
    assert list(dataset.class_names) == probe["classnames"]
    assert [len(dataset.train), len(dataset.val), len(dataset.test)] == probe["n"]
    assert dataset.train == dataset.test
    assert not dataset.train_is_sampled
    assert Path(first_train(dataset, tmp_path)).parent == Path(probe["first_train"]).parent
    assert dataset.prompt_template == "a photo of a {}."


def test_imagenet_v2_folders_are_labels(tmp_path: Path) -> None:
    probe = PROBE["imagenetv2"]
    folder = write_imagenet(tmp_path, "imagenetv2", {str(label): ["x.jpeg"] for label in range(12)})
    lines = "".join(f"n{label:08d} class {label}\n" for label in range(12))
    (folder / "classnames.txt").write_text(lines, encoding="utf-8")
    dataset = load_dataset("imagenet-v2", tmp_path)
    assert list(dataset.class_names) == probe["classnames"]
    assert first_train(dataset, tmp_path) == probe["first_train"]
    assert [(item.path, item.label) for item in dataset.test] == [(f"{k}/x.jpeg", k) for k in range(12)]
    assert dataset.val == () and not dataset.train_is_sampled


def test_variants_may_use_imagenets_class_names(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path, "imagenet_a", {"n01443537": ["0.jpg"], "n01440764": ["1.jpg"]})
    (tmp_path / "imagenet").mkdir()
    (folder / "classnames.txt").rename(tmp_path / "imagenet" / "classnames.txt")
    assert load_dataset("imagenet_a", tmp_path).class_names == ("tench", "goldfish")


def test_hash_depends_on_the_lists_alone(tmp_path: Path) -> None:
    lists = small_lists()
    write_split(tmp_path / "one", "dtd", lists)
    write_split(tmp_path / "two", "dtd", lists, images=True)
    lists["train"][0], lists["train"][1] = lists["train"][1], lists["train"][0]
    write_split(tmp_path / "three", "dtd", lists)
    first, second, third = (load_dataset("dtd", tmp_path / n).split_sha256 for n in ("one", "two", "three"))
    assert first == second != third


def test_builtin_needs_no_data_root(tmp_path: Path) -> None:
    dataset = load_dataset("textures", tmp_path / "nowhere")
    assert dataset.name == "textures" and dataset.num_classes == catalog.row("textures").num_classes


@pytest.mark.parametrize("name", ["dtd", "fgvc_aircraft", "imagenet", "imagenetv2", "imagenet_r"])
def test_missing_folder_says_how_to_provide_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / catalog.row(name).folder) in message
    assert "--data-root" in message and "CLIPFIT_DATA" in message and catalog.GUIDE_URL in message
    assert (catalog.row(name).split_url or "") in message
    assert "does not exist" not in message
    with pytest.raises(DataError, match=r"below the data root .*nowhere, which does not exist"):
        load_dataset(name, tmp_path / "nowhere")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown data set 'cifar'"):
        load_dataset("cifar", tmp_path)


def test_missing_split_file_says_where_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        load_dataset("dtd", tmp_path)
    assert caught.value.exit_code == 3
    assert str(tmp_path / "dtd" / "split_zhou_DescribableTextures.json") in str(caught.value)
    assert str(catalog.row("dtd").split_url) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object with lists train, val, test"),
        ('{"train": [], "val": [], "test": 3}', "expected an object with lists"),
        ('{"train": [], "val": [], "test": []}', "lists no training image"),
        ('{"train": [["a.jpg", 0]], "val": [], "test": []}', r"row 0 of 'train' is \['a.jpg', 0\]"),
        ('{"train": [["a.jpg", "0", "ant"]], "val": [], "test": []}', "row 0 of 'train'"),
        ('{"train": [["a.jpg", true, "ant"]], "val": [], "test": []}', "row 0 of 'train'"),
        ('{"train": [["a.jpg", -1, "ant"]], "val": [], "test": []}', "row 0 of 'train'"),
        ('{"train": [["a.jpg", 0, "ant"], null], "val": [], "test": []}', "row 1 of 'train' is None"),
        ('{"train": [["../a.jpg", 0, "ant"]], "val": [], "test": []}', "leads out of the image folder"),
        ('{"train": [["/a.jpg", 0, "ant"]], "val": [], "test": []}', "leads out of the image folder"),
        ('{"train": [["a/./b.jpg", 0, "ant"]], "val": [], "test": []}', "leads out of the image folder"),
        ('{"train": [["a//b.jpg", 0, "ant"]], "val": [], "test": []}', "leads out of the image folder"),
        (
            '{"train": [["a.jpg", 0, "ant"], ["b.jpg", 0, "Ant"]], "val": [], "test": []}',
            "row 1 of 'train': label 0 is called 'Ant' here and 'ant' before",
        ),
        ("[" * 100_000, "not JSON"),
        ('{"train": ' + "[" * 900 + "]" * 900 + ', "val": [], "test": []}', "row 0 of 'train' is"),
        ('{"train": [["a.jpg", Infinity, "ant"]], "val": [], "test": []}', "row 0 of 'train'"),
        ('{"train": [["a.jpg", ' + "9" * 5000 + ', "ant"]], "val": [], "test": []}', "not JSON"),
        ('{"train": [["a.jpg", ' + "9" * 4000 + ', "ant"]], "val": [], "test": []}', "is too large for 1 images"),
        (
            '{"train": [["a.jpg", 3000000, "ant"]], "val": [], "test": []}',
            "3000000 is too large for 1 images",
        ),
        (r'{"train": [["a\u0000.jpg", 0, "ant"]], "val": [], "test": []}', "is not called as a file can be"),
        (r'{"train": [["a\ud800.jpg", 0, "ant"]], "val": [], "test": []}', "is not called as a file can be"),
        (r'{"train": [["a.jpg", 0, "ant\udfff"]], "val": [], "test": []}', "is not called as a file can be"),
        (
            '{"train": [["a.jpg", 0, "ant"], ["b.jpg", 1, "bee"]], "val": [], "test": [["a.jpg", 0, "ant"]]}',
            "lists the image a.jpg more than once, in train as 'ant' and in test as 'ant'",
        ),
        (
            '{"train": [["a.jpg", 0, "red ant"], ["b.jpg", 1, "Red_ant"]], "val": [], "test": [["t.jpg", 0, "ant"]]}',
            "'red ant' and 'Red_ant' make the same prompt",
        ),
        (
            '{"train": [["a.jpg", 0, ""], ["b.jpg", 1, "bee"]], "val": [], "test": [["t.jpg", 1, "bee"]]}',
            "a class has no name",
        ),
        (
            '{"train": [["a.jpg", 0, "ant"]], "val": [], "test": [["t.jpg", 1, "bee"]]}',
            r"class 'bee' \(label 1\) has no training image",
        ),
        (
            '{"train": [["a.jpg", 0, "ant"], ["c.jpg", 2, "cow"]], "val": [], "test": [["t.jpg", 0, "ant"]]}',
            r"class 'label 1' \(label 1\) has no training image",
        ),
    ],
)
def test_damaged_split_files(text: str, complaint: str, tmp_path: Path, peak_bytes: Callable[[], int]) -> None:
    folder = write_split(tmp_path, "dtd", small_lists())
    (folder / "split_zhou_DescribableTextures.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=complaint) as caught:
        load_dataset("dtd", tmp_path)
    assert len(str(caught.value)) < 600 and peak_bytes() < 1 << 22, "nothing is made of what is refused"


def test_a_class_is_called_as_in_the_training_list(tmp_path: Path) -> None:
    lists = small_lists()
    plain = load_dataset("dtd", write_split(tmp_path / "plain", "dtd", lists).parent)
    assert plain.notes == ()
    lists["val"] = [(path, label, {"bee": "wasp"}.get(name, name)) for path, label, name in lists["val"]]
    lists["test"] = [(path, label, {"cow": "Cow"}.get(name, name)) for path, label, name in lists["test"]]
    dataset = load_dataset("dtd", write_split(tmp_path, "dtd", lists).parent)
    assert dataset.class_names == ("ant", "bee", "cow") and dataset.split_sha256 == plain.split_sha256
    assert dataset.notes == (
        "dtd: label 1 is called 'bee' in train and 'wasp' in val; the name in train counts (3 such images)",
    )


def test_hashes_of_list_files_can_be_made_by_anybody(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists())
    content = (folder / "split_zhou_DescribableTextures.json").read_bytes()
    assert load_dataset("dtd", tmp_path).split_file_sha256 == hashlib.sha256(content).hexdigest()
    folder = write_fgvc(tmp_path, ["707-320", "F/A-18"], {"train": 1, "val": 1, "test": 1})
    names = ("variants", "images_variant_train", "images_variant_val", "images_variant_test")
    content = b"".join((folder / f"{name}.txt").read_bytes() for name in names)
    assert load_dataset("fgvc_aircraft", tmp_path).split_file_sha256 == hashlib.sha256(content).hexdigest()
    both = {"n01443537": ["0.jpg"], "n01440764": ["1.jpg"]}
    folder = write_imagenet(
        tmp_path, "imagenet", {f"{part}/{w}": f for part in ("train", "val") for w, f in both.items()}
    )
    content = (folder / "classnames.txt").read_bytes()
    write_imagenet(tmp_path, "imagenet_r", both)
    write_imagenet(tmp_path, "imagenetv2", {"0": ["0.jpg"], "1": ["1.jpg"]})
    for name in ("imagenet", "imagenet_r", "imagenetv2"):
        assert load_dataset(name, tmp_path).split_file_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_list_files_that_would_never_end(kind: str, tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists())
    path = folder / "split_zhou_DescribableTextures.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(DataError, match=f"{path.name} cannot be read"):
        load_dataset("dtd", tmp_path)


def test_split_file_that_is_not_text(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists())
    (folder / "split_zhou_DescribableTextures.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        load_dataset("dtd", tmp_path)


def test_split_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("dtd", tmp_path)


def test_fgvc_labels_follow_the_lines_of_the_list(tmp_path: Path) -> None:
    write_fgvc(tmp_path, ["Yak-42", "707-320", "F/A-18"], {"train": 2, "val": 1, "test": 1})
    dataset = load_dataset("fgvc_aircraft", tmp_path)
    assert dataset.class_names == ("Yak-42", "707-320", "F/A-18")
    assert [item.label for item in dataset.train] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("file", "lines", "complaint"),
    [
        (
            "images_variant_test",
            "0000001 F/A-18",
            "0000001.jpg more than once, in train as '707-320' and in test",
        ),
        (
            "images_variant_val",
            "0000009 F/A-18\n0000009 F/A-18",
            "0000009.jpg more than once, in val as 'F/A-18'",
        ),
        ("variants", "707-320\nF/A-18\nf/a-18", "'F/A-18' and 'f/a-18' make the same prompt"),
    ],
)
def test_fgvc_lists_name_nothing_twice(file: str, lines: str, complaint: str, tmp_path: Path) -> None:
    folder = write_fgvc(tmp_path, ["707-320", "F/A-18"], {"train": 1, "val": 1, "test": 1})
    if file == "variants":
        with (folder / "images_variant_train.txt").open("a", encoding="utf-8") as train:
            train.write("0000007 f/a-18\n")
    (folder / f"{file}.txt").write_text(f"{lines}\n", encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        load_dataset("fgvc_aircraft", tmp_path)


def test_imagenet_has_two_names_twice_and_no_third(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path, "imagenet_r", {wnid: [f"{wnid}.jpg"] for wnid in WNIDS})
    for name in ("missile", "sunglasses"):
        text = "".join(f"{wnid} {name if k < 2 else wnid}\n" for k, wnid in enumerate(WNIDS))
        (folder / "classnames.txt").write_text(text, encoding="utf-8")
        assert load_dataset("imagenet_r", tmp_path).class_names[:2] == (name, name)
    (folder / "classnames.txt").write_text(text.replace("sunglasses", "bow"), encoding="utf-8")
    with pytest.raises(DataError, match="'bow' and 'bow' make the same prompt"):
        load_dataset("imagenet_r", tmp_path)


def test_imagenet_file_names_that_cannot_be_written_down(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path, "imagenet_r", {"n01443537": ["0.jpg"], "n01440764": ["1.jpg"]})
    (folder / "imagenet-r" / "n01440764" / os.fsdecode(b"\xff.jpg")).touch()
    with pytest.raises(DataError, match=r"the name b'\\xff.jpg' in .*n01440764 is not UTF-8 text; rename it"):
        load_dataset("imagenet_r", tmp_path)


def test_fgvc_errors(tmp_path: Path) -> None:
    folder = write_fgvc(tmp_path, ["707-320", "F/A-18"], {"train": 1, "val": 1, "test": 1})
    (folder / "images_variant_val.txt").write_text("0000001 F/A-19\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"images_variant_val.txt: line 1 is '0000001 F/A-19'"):
        load_dataset("fgvc_aircraft", tmp_path)
    (folder / "images_variant_val.txt").unlink()
    with pytest.raises(DataError, match=r"images_variant_val.txt\) of data set 'fgvc_aircraft' is missing"):
        load_dataset("fgvc_aircraft", tmp_path)


def test_imagenet_errors(tmp_path: Path) -> None:
    folder = write_imagenet(tmp_path, "imagenet", {"train/n01440764": ["a.JPEG"]})
    with pytest.raises(DataError, match=r"expected one folder per class below .*val"):
        load_dataset("imagenet", tmp_path)
    write_imagenet(tmp_path, "imagenet", {"val/n01440764": ["v.JPEG"], "val/n01443537": ["v.JPEG"]})
    with pytest.raises(DataError, match=r"class 'n01443537' .* has no training image"):
        load_dataset("imagenet", tmp_path)
    write_imagenet(tmp_path, "imagenet", {"train/n01443537": []})
    with pytest.raises(DataError, match=r"class 'goldfish' \(label 1\) has no training image"):
        load_dataset("imagenet", tmp_path)
    write_imagenet(tmp_path, "imagenet", {"train/n09": ["a.JPEG"]})
    with pytest.raises(DataError, match=r"folder 'n09' is not among the ids in classnames.txt"):
        load_dataset("imagenet", tmp_path)
    for text, complaint in (("n01440764\n", "expected a WordNet id"), ("n01 a\nn01 b\n", "line 2 .* came before")):
        (folder / "classnames.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=complaint):
            load_dataset("imagenet", tmp_path)
    (folder / "classnames.txt").unlink()
    with pytest.raises(DataError, match=r"list of class names of data set 'imagenet' is missing: .*drive\.google"):
        load_dataset("imagenet", tmp_path)


@pytest.mark.parametrize("name", ["n01440764", "4"])
def test_imagenet_v2_folder_names_are_checked(name: str, tmp_path: Path) -> None:
    write_imagenet(tmp_path, "imagenetv2", {"0": ["x.jpeg"], name: ["x.jpeg"]})
    with pytest.raises(DataError, match="is not named by a label from 0 to 3"):
        load_dataset("imagenetv2", tmp_path)


def test_default_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPFIT_DATA", "~/sets")
    assert default_data_root() == tmp_path / "sets"
    monkeypatch.delenv("CLIPFIT_DATA")
    assert default_data_root().name == "data" and default_data_root().is_absolute()
    assert "clipfit" in default_data_root().parts


def test_data_root_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_split(tmp_path / "sets", "dtd", small_lists())
    assert load_dataset("dtd", Path("~/sets")).class_names == ("ant", "bee", "cow")
