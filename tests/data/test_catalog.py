"""The catalog of data sets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clipfit_cli.data import catalog
from clipfit_cli.data.builtin.textures import TEXTURE_SETS, textures_dataset
from clipfit_cli.errors import UnknownNameError


def test_names_stand_in_the_papers_order() -> None:
    assert catalog.FEW_SHOT_DATASETS == (
        "imagenet",
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    )
    assert catalog.IMAGENET_VARIANTS == ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
    assert catalog.BUILTIN_DATASETS[0] == "textures"
    groups = (catalog.FEW_SHOT_DATASETS, catalog.IMAGENET_VARIANTS, catalog.BUILTIN_DATASETS)
    assert sum(groups, ()) == catalog.ALL


def test_prompts_are_those_of_the_protocol() -> None:
    plain = "a photo of a {}."
    assert {name: catalog.row(name).prompt_template for name in catalog.ALL[:15]} == {
        "imagenet": plain,
        "caltech101": plain,
        "oxford_pets": "a photo of a {}, a type of pet.",
        "stanford_cars": plain,
        "oxford_flowers": "a photo of a {}, a type of flower.",
        "food101": "a photo of {}, a type of food.",
        "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
        "sun397": plain,
        "dtd": "a photo of a {}, a type of texture.",
        "eurosat": "a centered satellite photo of {}.",
        "ucf101": "a photo of a person doing {}.",
        "imagenetv2": plain,
        "imagenet_sketch": plain,
        "imagenet_a": plain,
        "imagenet_r": plain,
    }


@pytest.mark.parametrize("name", catalog.ALL)
def test_rows_are_complete(name: str) -> None:
    row = catalog.row(name)
    assert row.name == name
    assert row.prompt_template.count("{}") == 1
    assert row.title and row.licence and row.homepage and row.citation
    assert (row.split_file is not None) == (row.reader == "split_json")
    assert (row.folder == "") == (row.reader == "builtin")
    if row.split_file:
        assert row.split_url is not None and row.split_url.startswith("https://drive.google.com/file/d/")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Caltech-101", "caltech101"),
        ("pets", "oxford_pets"),
        ("OxfordPets", "oxford_pets"),
        ("cars", "stanford_cars"),
        ("flowers102", "oxford_flowers"),
        ("oxford-flowers", "oxford_flowers"),
        ("food-101", "food101"),
        ("aircraft", "fgvc_aircraft"),
        ("FGVC", "fgvc_aircraft"),
        ("DTD", "dtd"),
        ("ucf", "ucf101"),
        ("imagenet-v2", "imagenetv2"),
        ("ImageNet_Sketch", "imagenet_sketch"),
        ("imagenet-a", "imagenet_a"),
        ("textures_dim", "textures-dim"),
    ],
)
def test_row_takes_short_names(given: str, name: str) -> None:
    assert catalog.row(given).name == name


def test_row_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'eurosta'.*'eurosat'"):
        catalog.row("eurosta")


def test_short_names_hide_no_data_set() -> None:
    assert len({catalog.row(name).name for name in catalog.ALL}) == len(catalog.ALL)


def test_import_is_light() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'torchvision', 'pandas'}"
    code = f"import sys, clipfit_cli.data.catalog; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", catalog.BUILTIN_DATASETS)
def test_rows_of_builtin_sets_tell_the_truth(name: str) -> None:
    row = catalog.row(name)
    dataset = textures_dataset(name)
    assert tuple(TEXTURE_SETS) == catalog.BUILTIN_DATASETS
    assert dataset.prompt_template == row.prompt_template
    assert dataset.num_classes == row.num_classes
