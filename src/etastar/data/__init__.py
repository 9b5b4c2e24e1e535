"""Room 1: datasets. A new one is a file here and a line in `DATASETS`.

`load` gives tensors ready to train on: inputs flattened and standardised, labels as class indices,
the split fixed, and a record of where every number came from (`Dataset.provenance`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from etastar.data.cifar10 import load_cifar10
from etastar.data.dataset import Dataset
from etastar.data.digits import load_digits
from etastar.data.files import explicit_folder
from etastar.data.gaussians import load_gaussians
from etastar.data.grey_images import load_grey_images
from etastar.data.raw import RawData, check_size
from etastar.errors import unknown_name

Loader: TypeAlias = Callable[[Path | None, bool], RawData]
"""From an explicit folder (None: download) and whether to show progress, to arrays."""

DATASETS: dict[str, Loader] = {
    "digits": load_digits,
    "mnist": partial(load_grey_images, "mnist"),
    "fashion-mnist": partial(load_grey_images, "fashion-mnist"),
    "cifar10": load_cifar10,
    "gaussians": load_gaussians,
}


def load(
    name: str = "digits",
    *,
    data_dir: str | Path | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    progress: bool = False,
) -> Dataset:
    """The dataset of that name.

    Images are standardised by one mean and one standard deviation over all pixels of the *full*
    training set, whatever `train_size` is: the inputs of a smaller training set are the first rows
    of the larger one's, bit for bit. `gaussians` has mean 0 and second moment 1 in population and
    is left as drawn.

    Args:
        name: A key of `DATASETS`.
        data_dir: A folder with the image files, in `data_dir/<name>/` or in `data_dir` itself.
            None: the environment's `ETASTAR_DATA_DIR`; if that is unset too, the files are
            downloaded once into the cache (`ETASTAR_CACHE_DIR`, else the system's). A folder that
            is named is never supplemented by a download. `digits` and `gaussians` need no files.
            Read are four IDX files, compressed or not, under the names of MNIST's; of `cifar10`
            also `cifar-10-batches-py/` and `cifar-10-python.tar.gz` (not its binary archive).
        train_size: Use the first so many training samples; all if None.
        val_size: Use the first so many validation samples; all if None.
        progress: Show the progress of a download on standard error.

    Returns:
        The dataset, on the CPU in float32; see `Dataset.to`.

    Raises:
        ConfigError: The name is unknown, or a size is below 1 or above what there is.
        DataError: A file is missing, damaged, not what its name says, or cannot be downloaded.

    Example:
        >>> data = load("digits", train_size=1000)
        >>> tuple(data.x_train.shape), tuple(data.x_val.shape), data.input_shape
        ((1000, 64), (359, 64), (1, 8, 8))
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    # before any download: a size below 1 is wrong for every dataset
    check_size("train_size", train_size)
    check_size("val_size", val_size)
    raw = DATASETS[name](explicit_folder(data_dir), progress)
    return raw.to_dataset(train_size, val_size)


__all__ = ["DATASETS", "Dataset", "load"]
