"""MNIST, and what every dataset in the same four grey IDX files shares."""

from __future__ import annotations

from pathlib import Path

from etastar.data.download import Published, fetch
from etastar.data.files import idx_names, locate
from etastar.data.idx import read_split
from etastar.data.raw import RawData

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""Training images and labels, test images and labels."""


def idx_files(*sums: str) -> dict[str, str]:
    """The four files' names with their SHA-256, which are given in the order of `STEMS`."""
    return {f"{stem}.gz": sha256 for stem, sha256 in zip(STEMS, sums, strict=True)}


# SHA-256 as TensorFlow Datasets pins them (url_checksums/mnist.txt). The original site,
# yann.lecun.com/exdb/mnist, no longer serves the files.
PUBLISHED = Published(
    name="mnist",
    source="MNIST, LeCun, Cortes & Burges 1998, http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)",
    mirrors=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    files=idx_files(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)


def load_mnist(folder: Path | None, progress: bool) -> RawData:
    """MNIST: 60,000 + 10,000 handwritten digits, grey, 28×28; validation is the test split."""
    return grey_images(PUBLISHED, folder, progress)


def grey_images(published: Published, folder: Path | None, progress: bool) -> RawData:
    """Ten classes of 28×28 grey images in MNIST's four IDX files.

    Args:
        published: What is published, and where.
        folder: Where the files are; None to download them.
        progress: Show the progress of a download.

    Returns:
        Images `[N, 1, 28, 28]` and labels.

    Raises:
        DataError: A file is missing, damaged, not what its name says, or cannot be downloaded.
    """
    if folder is None:
        paths = fetch(published, progress)
    else:
        _, paths = locate(folder, published.name, {"idx": [idx_names(stem) for stem in STEMS]})
    (x_train, y_train, x_val, y_val), files = read_split(paths, [(28, 28)], classes=10)
    split = "official: training files; validation is the test files (t10k)"
    arrays = (x_train[:, None], y_train, x_val[:, None], y_val)
    return published.raw_data(arrays, files, paths[0].parent, split)
