"""What is known of every data set before a file is opened: one frozen row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipfit_cli.config import TEXTURES
from clipfit_cli.errors import UnknownNameError

ReaderKind = Literal["split_json", "fgvc", "imagenet", "imagenet_v2", "imagenet_variant", "builtin"]

GUIDE_URL = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""Where the layout of every data set is described step by step."""

DEFAULT_TEMPLATE = "a photo of a {}."
"""Prompt of the data sets that have no other one of their own."""

_TERMS = "non-commercial research and education (terms of image-net.org)"
_VARIANT_TERMS = "MIT (repository); the photographs belong to their authors"


@dataclass(frozen=True)
class CatalogRow:
    """One data set.

    Attributes:
        name: What a user types.
        title: What a table shows.
        reader: Which layout it is stored in.
        prompt_template: Prompt with exactly one ``{}`` for the class name.
        num_classes: Of the published data set.
        licence: Of the images, in a few words; "not stated" where the authors give none.
        homepage: Where the data set comes from.
        citation: Paper to cite.
        folder: Folder below the data root; empty for built-in sets.
        image_folder: Folder below `folder` that listed paths are relative to; empty = `folder` itself.
        split_file: The published list of images below `folder`, where there is one.
        split_url: Where to get that list (for the ImageNet family: the list of class names).
        num_train, num_val, num_test: Images of the published split; None = not known, or drawn by code.
        same_names: Class names that the published list gives to two classes each, in lower case.
    """

    name: str
    title: str
    reader: ReaderKind
    prompt_template: str
    num_classes: int
    licence: str
    homepage: str
    citation: str
    folder: str = ""
    image_folder: str = ""
    split_file: str | None = None
    split_url: str | None = None
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    same_names: tuple[str, ...] = ()


def _published(
    name: str,
    split: str | None,
    counts: tuple[int, int, int, int],
    *,
    drive_id: str = "1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF",
    reader: ReaderKind = "split_json",
    **fields: str,
) -> CatalogRow:
    """Return a row of the CoOp layout or, without a split file, of the ImageNet family.

    Args:
        name: As of the row.
        split: What the split file is called by.
        counts: Classes, train, val and test images.
        drive_id: Of the split file, or of the list of class names.
        reader, fields: As of the row.
    """
    classes, train, val, test = counts
    return CatalogRow(
        name=name,
        reader=reader,
        split_file=f"split_zhou_{split}.json" if split else None,
        split_url=f"https://drive.google.com/file/d/{drive_id}/view",
        num_classes=classes,
        num_train=train,
        num_val=val,
        num_test=test,
        same_names=() if split else ("missile", "sunglasses"),
        **{"prompt_template": DEFAULT_TEMPLATE, "folder": name, **fields},
    )


_ROWS: tuple[CatalogRow, ...] = (
    _published(
        "imagenet",
        None,
        (1000, 1281167, 50000, 50000),
        reader="imagenet",
        title="ImageNet",
        folder="imagenet",
        image_folder="images",
        licence=_TERMS,
        homepage="https://www.image-net.org",
        citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
    ),
    _published(
        "caltech101",
        "Caltech101",
        (100, 4128, 1649, 2465),
        drive_id="1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        title="Caltech101",
        folder="caltech-101",
        image_folder="101_ObjectCategories",
        licence="CC BY 4.0",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        citation="Fei-Fei et al., Learning generative visual models from few training examples, CVPRW 2004",
    ),
    _published(
        "oxford_pets",
        "OxfordPets",
        (37, 2944, 736, 3669),
        drive_id="1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        title="OxfordPets",
        image_folder="images",
        prompt_template="a photo of a {}, a type of pet.",
        licence="CC BY-SA 4.0",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        citation="Parkhi et al., Cats and Dogs, CVPR 2012",
    ),
    _published(
        "stanford_cars",
        "StanfordCars",
        (196, 6509, 1635, 8041),
        drive_id="1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        title="StanfordCars",
        licence="not stated (offered for research)",
        homepage="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        citation="Krause et al., 3D Object Representations for Fine-Grained Categorization, ICCVW 2013",
    ),
    _published(
        "oxford_flowers",
        "OxfordFlowers",
        (102, 4093, 1633, 2463),
        drive_id="1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        title="Flowers102",
        image_folder="jpg",
        prompt_template="a photo of a {}, a type of flower.",
        licence="not stated (offered for research)",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        citation="Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, 2008",
    ),
    _published(
        "food101",
        "Food101",
        (101, 50500, 20200, 30300),
        drive_id="1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        title="Food101",
        folder="food-101",
        image_folder="images",
        prompt_template="a photo of {}, a type of food.",
        licence="not stated (offered for research)",
        homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        citation="Bossard et al., Food-101: Mining Discriminative Components with Random Forests, ECCV 2014",
    ),
    CatalogRow(
        name="fgvc_aircraft",
        title="FGVCAircraft",
        reader="fgvc",
        prompt_template="a photo of a {}, a type of aircraft.",
        num_classes=100,
        licence="non-commercial research",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        citation="Maji et al., Fine-Grained Visual Classification of Aircraft, arXiv 1306.5151",
        folder="fgvc_aircraft",
        image_folder="images",
        num_train=3334,
        num_val=3333,
        num_test=3333,
    ),
    _published(
        "sun397",
        "SUN397",
        (397, 15880, 3970, 19850),
        drive_id="1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        title="SUN397",
        image_folder="SUN397",
        licence="not stated (offered for research)",
        homepage="https://vision.princeton.edu/projects/2010/SUN/",
        citation="Xiao et al., SUN Database: Large-scale Scene Recognition from Abbey to Zoo, CVPR 2010",
    ),
    _published(
        "dtd",
        "DescribableTextures",
        (47, 2820, 1128, 1692),
        drive_id="1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        title="DTD",
        image_folder="images",
        prompt_template="a photo of a {}, a type of texture.",
        licence="research purposes",
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        citation="Cimpoi et al., Describing Textures in the Wild, CVPR 2014",
    ),
    _published(
        "eurosat",
        "EuroSAT",
        (10, 13500, 5400, 8100),
        drive_id="1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        title="EuroSAT",
        image_folder="2750",
        prompt_template="a centered satellite photo of {}.",
        licence="MIT",
        homepage="https://github.com/phelber/EuroSAT",
        citation="Helber et al., EuroSAT: A Novel Dataset and Deep Learning Benchmark, JSTARS 2019",
    ),
    _published(
        "ucf101",
        "UCF101",
        (101, 7639, 1898, 3783),
        drive_id="1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        title="UCF101",
        image_folder="UCF-101-midframes",
        prompt_template="a photo of a person doing {}.",
        licence="not stated (offered for research)",
        homepage="https://www.crcv.ucf.edu/data/UCF101.php",
        citation="Soomro et al., UCF101: A Dataset of 101 Human Actions Classes, arXiv 1212.0402",
    ),
    _published(
        "imagenetv2",
        None,
        (1000, 10000, 0, 10000),
        reader="imagenet_v2",
        title="ImageNetV2",
        folder="imagenetv2",
        image_folder="imagenetv2-matched-frequency-format-val",
        licence=_VARIANT_TERMS,
        homepage="https://github.com/modestyachts/ImageNetV2",
        citation="Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019",
    ),
    _published(
        "imagenet_sketch",
        None,
        (1000, 50889, 0, 50889),
        reader="imagenet_variant",
        title="ImageNet-Sketch",
        folder="imagenet-sketch",
        image_folder="images",
        licence=_VARIANT_TERMS,
        homepage="https://github.com/HaohanWang/ImageNet-Sketch",
        citation="Wang et al., Learning Robust Global Representations by Penalizing Local Power, NeurIPS 2019",
    ),
    _published(
        "imagenet_a",
        None,
        (200, 7500, 0, 7500),
        reader="imagenet_variant",
        title="ImageNet-A",
        folder="imagenet-adversarial",
        image_folder="imagenet-a",
        licence=_VARIANT_TERMS,
        homepage="https://github.com/hendrycks/natural-adv-examples",
        citation="Hendrycks et al., Natural Adversarial Examples, CVPR 2021",
    ),
    _published(
        "imagenet_r",
        None,
        (200, 30000, 0, 30000),
        reader="imagenet_variant",
        title="ImageNet-R",
        folder="imagenet-rendition",
        image_folder="imagenet-r",
        licence=_VARIANT_TERMS,
        homepage="https://github.com/hendrycks/imagenet-r",
        citation="Hendrycks et al., The Many Faces of Robustness, ICCV 2021",
    ),
    *(
        CatalogRow(
            name=name,
            title=title,
            reader="builtin",
            prompt_template="a photo of a {} texture.",
            num_classes=26,
            licence="MIT (drawn by clipfit)",
            homepage="part of clipfit",
            citation="clipfit",
        )
        for name, title in (
            (TEXTURES, "Textures"),
            ("textures-dim", "Textures, dim"),
            ("textures-relief", "Textures, relief"),
            ("textures-sketch", "Textures, sketch"),
        )
    ),
)

_BY_NAME = {entry.name: entry for entry in _ROWS}

ALL: tuple[str, ...] = tuple(_BY_NAME)
"""Every name: the eleven in the paper's order, the ImageNet variants, the built-in sets."""

FEW_SHOT_DATASETS, IMAGENET_VARIANTS, BUILTIN_DATASETS = ALL[:11], ALL[11:15], ALL[15:]


def domains_of(dataset: str) -> tuple[str, ...]:
    """Return the data sets that are another one's classes in other domains."""
    return {"imagenet": IMAGENET_VARIANTS, BUILTIN_DATASETS[0]: BUILTIN_DATASETS[1:]}.get(dataset, ())


_ALIASES: dict[str, str] = {
    "caltech": "caltech101",
    "pets": "oxford_pets",
    "oxfordiiitpet": "oxford_pets",
    "cars": "stanford_cars",
    "flowers": "oxford_flowers",
    "flowers102": "oxford_flowers",
    "oxfordflowers102": "oxford_flowers",
    "food": "food101",
    "aircraft": "fgvc_aircraft",
    "fgvc": "fgvc_aircraft",
    "sun": "sun397",
    "describabletextures": "dtd",
    "ucf": "ucf101",
    "imagenet1k": "imagenet",
}


def is_known(name: str) -> bool:
    """Return whether `row` finds a data set by this name."""
    return _bare(name) in _BY_BARE_NAME


def prompt_template(name: str) -> str:
    """Return the prompt template of a data set; of one that is not in the catalog, the general one."""
    return _BY_NAME[name].prompt_template if name in _BY_NAME else DEFAULT_TEMPLATE


def _bare(name: str) -> str:
    """Return a name without case, dashes, underscores and blanks."""
    return "".join(name.lower().replace("-", "").replace("_", "").split())


_BY_BARE_NAME = {**_ALIASES, **{_bare(name): name for name in ALL}}


def row(name: str) -> CatalogRow:
    """Return the row of a data set; case, dashes and underscores do not matter, common short names do.

    Raises:
        UnknownNameError: There is no such data set.
    """
    known = _BY_BARE_NAME.get(_bare(name))
    if known is None:
        raise UnknownNameError("data set", name, ALL)
    return _BY_NAME[known]
