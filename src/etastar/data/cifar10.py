"""CIFAR-10, from its own python archive, that archive unpacked, or colour IDX files."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

import numpy as np

from etastar.data.cifar_batch import parse_batch
from etastar.data.download import PUBLISHED, fetch
from etastar.data.files import Names, idx_names, locate, read_file, sha256_of
from etastar.data.idx import read_split
from etastar.data.raw import RawData
from etastar.errors import DataError

ARCHIVE = "cifar-10-python.tar.gz"
UNPACKED = "cifar-10-batches-py"
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
"""Members of the archive, in order; the last one is the test split."""

STEMS = (
    *("train-images-idx4-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx4-ubyte", "t10k-labels-idx1-ubyte"),
)

_LARGEST_BATCH = 1 << 26
"""Bytes; the real batches have 31 MB. A larger member is not one of them."""


def load_cifar10(folder: Path | None, progress: bool) -> RawData:
    """CIFAR-10: 50,000 + 10,000 colour images, 32×32; validation is the test split.

    In a folder the data may come as four IDX files (images `[N, 32, 32, 3]` or `[N, 3, 32, 32]`),
    as `cifar-10-batches-py/`, or as `cifar-10-python.tar.gz`; the first complete form is taken.
    Every form gives the same order of inputs: channels first, as CIFAR's own files have it.

    Returns:
        Images `[N, 3, 32, 32]` and labels.

    Raises:
        DataError: A file is missing, damaged, not what its name says, or cannot be downloaded.
    """
    published = PUBLISHED["cifar10"]
    if folder is None:
        form, paths = "archive", fetch(published, progress)
    else:
        forms: dict[str, list[Names]] = {
            "idx": [idx_names(stem) for stem in STEMS],
            "batches": [(f"{UNPACKED}/{batch}", batch) for batch in BATCHES],
            "archive": [(ARCHIVE,)],
        }
        form, paths = locate(folder, published.name, forms)
    if form == "idx":
        arrays, files = read_split(paths, [(32, 32, 3), (3, 32, 32)], classes=10)
        # [N, 32, 32, 3] as [N, 3, 32, 32], without a copy
        arrays = [x.transpose(0, 3, 1, 2) if x.shape[-1] == 3 else x for x in arrays]
    else:
        if form == "archive":
            batches, files = read_archive(paths[0]), {paths[0].name: sha256_of(paths[0])}
        else:
            contents = [read_file(path) for path in paths]
            batches = [(str(p), content) for p, (content, _) in zip(paths, contents, strict=True)]
            files = {path.name: sha for path, (_, sha) in zip(paths, contents, strict=True)}
        parsed = [parse_batch(content, name) for name, content in batches]
        images = [batch[0].reshape(-1, 3, 32, 32) for batch in parsed]
        labels = [batch[1] for batch in parsed]
        arrays = [np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1]]
    split = "official: training batches; validation is the test batch"
    return published.raw_data(arrays, files, paths[0].parent, split)


def read_archive(path: Path) -> list[tuple[str, bytes]]:
    """The six batches inside `cifar-10-python.tar.gz`, in memory; nothing is unpacked to disk.

    Returns:
        For each of `BATCHES`, how to call it in errors, and its bytes.

    Raises:
        DataError: The archive is damaged or cut short, or a batch is missing or too large.
    """
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if not member.isreg() or name not in BATCHES:
                    continue
                if member.size > _LARGEST_BATCH:
                    raise DataError(
                        f"{path}: {member.name} has {member.size} bytes; expected a batch of "
                        f"CIFAR-10, below {_LARGEST_BATCH}."
                    )
                file = archive.extractfile(member)
                found[name] = b"" if file is None else file.read()
            # tar may end before gzip does, and gzip's own checksum is compared only at its end
            while stream.read(1 << 20):
                pass
    # a damaged header shows as any of these, depending on which of its fields was hit
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged or cut short: expected a gzip-compressed tar archive, got "
            f"{type(error).__name__}: {error}. Fetch it again."
        ) from error
    missing = [name for name in BATCHES if name not in found]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; expected the six batches of CIFAR-10.")
    return [(f"{path}: {name}", found[name]) for name in BATCHES]
