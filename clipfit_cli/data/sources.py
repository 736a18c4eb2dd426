"""Where the files of every data set are to be had, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from clipfit_cli.data.catalog import CatalogRow

HUB = "https://huggingface.co/"

CLASS_NAMES_FILE = "classnames.txt"

_MIRROR = HUB + "zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
_DRIVE = "https://drive.google.com/uc?export=download&id="


@dataclass(frozen=True)
class Source:
    """One archive with all images of a data set.

    Attributes:
        url: Of the archive.
        origin: Who offers it: ``mirror`` re-uploads it in CoOp's layout with the published split, at a pinned
            revision; ``authors`` is the original, whose split file is fetched separately.
        suffix: Of the file.
        megabytes: Size, about; None where it is not known.
        size: Exact size in bytes, where it is pinned.
        digest: ``sha256:...`` or ``md5:...`` that the file must have. None = nobody has published one: the sha256 is
            computed and recorded, and the unpacked data set is held to the catalog's counts.
        image_folder: Name of the image folder in the archive, where it is not the catalog's.
        nested: Path of an archive within the archive that holds the images.
    """

    url: str
    origin: str
    suffix: str
    megabytes: float | None = None
    size: int | None = None
    digest: str | None = None
    image_folder: str | None = None
    nested: str | None = None

    def file_name(self, dataset: str) -> str:
        """Return what the archive is called while it lies in the folder of downloads."""
        return f"{dataset}-{self.origin}{self.suffix}"


@dataclass(frozen=True)
class ListFile:
    """The file that lists the images, or names the classes.

    Attributes:
        name: Below the data set's folder.
        url: Official location, a plain download.
        sha256: Of the published file; None where it is not known.
    """

    name: str
    url: str
    sha256: str | None = None


def _mirror(file: str, megabytes: float | None = None, *, size: int | None = None, sha256: str = "") -> Source:
    about, digest = size / 1e6 if size else megabytes, f"sha256:{sha256}" if sha256 else None
    return Source(_MIRROR + file, "mirror", PurePosixPath(file).suffix, about, size, digest)


def _authors(
    url: str,
    suffix: str,
    megabytes: float | None = None,
    md5: str = "",
    *,
    image_folder: str | None = None,
    nested: str | None = None,
) -> Source:
    return Source(url, "authors", suffix, megabytes, None, f"md5:{md5}" if md5 else None, image_folder, nested)


# The md5 sums are those that torchvision pins. The sha256 sums and exact sizes of the mirror stand on the hub's page
# (dtd) or in other people's published records of a download of that very revision.
# No official archive: StanfordCars and SUN397 (taken down), UCF101's videos (the benchmark uses their middle frames).
_SOURCES: dict[str, tuple[Source, ...]] = {
    "caltech101": (
        _mirror("caltech-101.zip", 143),
        _authors(
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            ".zip",
            137,
            "3138e1922a9193bfa496528edbbc45d0",
            nested="caltech-101/101_ObjectCategories.tar.gz",
        ),
    ),
    "oxford_pets": (
        _mirror("oxford_pets.zip"),
        _authors(_OXFORD + "pets/data/images.tar.gz", ".tar.gz", 792, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    ),
    "stanford_cars": (
        _mirror(
            "stanford_cars.zip",
            size=1_959_002_685,
            sha256="50812812f33534ef2906b992762f96e8a5bb57b0eedc53800e91b7ed599abf8e",
        ),
    ),
    "oxford_flowers": (
        _mirror("oxford_flowers.zip"),
        _authors(_OXFORD + "flowers/102/102flowers.tgz", ".tgz", 345, "52808999861908f626f3c1f4e79d11fa"),
    ),
    "food101": (
        _mirror("food101.zip", 5010),
        _authors(
            "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", ".tar.gz", 5000, "85eeb15f3717b99a5da872d97d918f87"
        ),
    ),
    "fgvc_aircraft": (
        _mirror("fgvc_aircraft.zip", 2750),
        _authors(_OXFORD + "fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", ".tar.gz", 2750),
    ),
    "sun397": (
        _mirror(
            "sun397.zip",
            size=39_182_693_483,
            sha256="ce6dee6685c9f1d592c8297e193dde885aa9c50d008fd998a38ccc57a3dda722",
        ),
    ),
    "dtd": (
        _mirror(
            "dtd.zip",
            size=626_071_992,
            sha256="5ba4d3000e60f5541ba15a082033ca0696eee68125e9c28edff3dbe22f04313b",
        ),
        _authors(_OXFORD + "dtd/download/dtd-r1.0.1.tar.gz", ".tar.gz", 625, "fff73e5086ae6bdbea199a49dfb8a4c1"),
    ),
    "eurosat": (
        _mirror("eurosat.zip", 94.8),
        _authors(
            HUB + "datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            ".zip",
            94.3,
            "c8fa014336c82ac7804f0398fcb19387",
        ),
    ),
    "ucf101": (
        _mirror(
            "ucf101.zip",
            size=140_164_538,
            sha256="2fe1bd40e64408d02ff173badf744da557033ae6c75dd4ea51519366551f3ae6",
        ),
        _authors(
            "https://drive.usercontent.google.com/download?export=download&confirm=t"
            "&id=10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
            ".zip",
            140,
        ),
    ),
    "imagenetv2": (
        _mirror("imagenetv2.zip"),
        _authors(
            HUB + "datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz", ".tar.gz", 1264
        ),
    ),
    "imagenet_sketch": (
        _mirror("imagenet-sketch.zip"),
        _authors(
            HUB + "datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
            ".zip",
            image_folder="sketch",
        ),
    ),
    "imagenet_a": (
        _mirror("imagenet-adversarial.zip", 684),
        _authors("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", ".tar", 688),
    ),
    "imagenet_r": (
        _mirror("imagenet-rendition.zip", 2100),
        _authors("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", ".tar", 2190),
    ),
}

_SPLIT_SHA256 = {
    "caltech101": "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
    "oxford_pets": "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
    "stanford_cars": "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
    "oxford_flowers": "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
    "dtd": "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
    "eurosat": "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
    "ucf101": "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
}


def sources(name: str) -> tuple[Source, ...]:
    """Return the archives of a data set, best first; none for ImageNet and the built-in sets."""
    return _SOURCES.get(name, ())


def list_file(row: CatalogRow) -> ListFile | None:
    """Return the list that a data set's reader needs; None where it comes with the images or there is none."""
    if row.split_url is None:
        return None
    drive_id = PurePosixPath(row.split_url).parts[-2]
    return ListFile(row.split_file or CLASS_NAMES_FILE, _DRIVE + drive_id, _SPLIT_SHA256.get(row.name))
