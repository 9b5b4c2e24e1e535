"""MNIST and Fashion-MNIST: ten classes of 28×28 grey images in four IDX files."""

from __future__ import annotations

from pathlib import Path

from etastar.data.download import PUBLISHED, fetch
from etastar.data.files import idx_names, locate
from etastar.data.idx import read_split
from etastar.data.raw import RawData


def load_grey_images(name: str, folder: Path | None, progress: bool) -> RawData:
    """Read 60,000 + 10,000 images; validation is the test split.

    Args:
        name: A key of `PUBLISHED`.
        folder: Where the files are; None to download them.
        progress: Show the progress of a download.

    Returns:
        Images `[N, 1, 28, 28]` and labels.

    Raises:
        DataError: A file is missing, damaged, not what its name says, or cannot be downloaded.
    """
    published = PUBLISHED[name]
    if folder is None:
        paths = fetch(published, progress)
    else:
        names = [idx_names(file.removesuffix(".gz")) for file in published.files]
        _, paths = locate(folder, name, {"idx": names})
    arrays, files = read_split(paths, [(28, 28)], classes=10)
    arrays = [x[:, None] if x.ndim == 3 else x for x in arrays]
    split = "official: training files; validation is the test files (t10k)"
    return published.raw_data(arrays, files, paths[0].parent, split)
