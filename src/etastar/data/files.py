"""Files in a folder the user names: which folder, which files, and their bytes.

A named folder is taken at its word: nothing is downloaded into it or instead of it, and its files
need not be the published ones (they may be shuffled or re-encoded). Their SHA-256 is recorded, and
compared with `SHA256SUMS` where the folder has one.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from etastar.errors import DataError

DATA_DIR_VARIABLE = "ETASTAR_DATA_DIR"
"""Environment variable that names the folder when `data_dir` does not."""

SUMS = "SHA256SUMS"
"""Name of a list of checksums."""

Names: TypeAlias = tuple[str, ...]
"""Names that one and the same file may have, the preferred one first."""

_GZIP_MAGIC = b"\x1f\x8b"


def explicit_folder(data_dir: str | Path | None) -> Path | None:
    """The folder named by the argument, else by `ETASTAR_DATA_DIR`, else None."""
    named = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    return None if named is None else Path(named).expanduser()


def locate(
    folder: Path, dataset: str, forms: Mapping[str, Sequence[Names]]
) -> tuple[str, list[Path]]:
    """Find a dataset's files in `folder/<dataset>/`, then in `folder` itself.

    Files of two places are never mixed: the first place that holds any of the files must hold all.

    Args:
        folder: The folder the user named.
        dataset: Name of the dataset, and of the subfolder looked in first.
        forms: The forms in which the dataset may come, e.g. `idx` and `archive`, preferred first;
            each a sequence of files, each with the names it may have (relative to the place).

    Returns:
        The form found, and its files in the order of `forms`.

    Raises:
        DataError: The folder does not exist, no form is complete in it, or a file is not the one
            that a list of checksums beside it names.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"the data folder {folder} {state}; expected a folder with the files of {dataset}. "
            f"Name another one with `data_dir` (or in {DATA_DIR_VARIABLE})."
        )
    places = [folder / dataset, folder]
    for place in places:
        partial = []
        for form, files in forms.items():
            found = [_first(place, names) for names in files]
            paths = [path for path in found if path is not None]
            if len(paths) == len(files):
                check_sums(folder, paths)
                return form, paths
            if paths:
                missing = [n[0] for n, path in zip(files, found, strict=True) if path is None]
                partial.append(f"{', '.join(missing)} (beside {paths[0].name})")
        if partial:
            raise DataError(
                f"{dataset} in {place} is incomplete; missing: {'; or '.join(partial)}. Put the "
                f"files there, or name another folder with `data_dir` (or in {DATA_DIR_VARIABLE})."
            )
    expected = "; or ".join(", ".join(names[0] for names in files) for files in forms.values())
    raise DataError(
        f"no files of {dataset} in {places[0]} or {places[1]}; expected {expected} (IDX files may "
        f"be gzip-compressed or not). Put them there, or name another folder with `data_dir` (or "
        f"in {DATA_DIR_VARIABLE}); a folder that is named is never filled by a download."
    )


def check_sums(folder: Path, paths: Sequence[Path]) -> None:
    """Compare files with `SHA256SUMS`, as `sha256sum` writes it, in the folder or beside them.

    Files that are in no list are taken as they are.

    Raises:
        DataError: A file has another SHA-256 than its list says, or a list cannot be read.
    """
    for path in paths:
        for place in dict.fromkeys((folder, path.parent)):
            listed = _listed_sums(place / SUMS).get(path.relative_to(place).as_posix())
            if listed is not None and (got := sha256_of(path)) != listed:
                raise DataError(
                    f"{path} is damaged or another file: expected SHA-256 {listed}, as "
                    f"{place / SUMS} lists it, got {got}. Fetch it again, or correct the list."
                )


def _listed_sums(path: Path) -> dict[str, str]:
    """SHA-256 by name, from a list that may not exist."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}. Mend or remove it.") from error
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    # a name read in binary mode has a star before it
    return {pair[1].lstrip("*").removeprefix("./"): pair[0].lower() for pair in lines if pair[1:]}


def idx_names(stem: str) -> Names:
    """Names of an IDX file: raw or gzip-compressed, with `-idx` or, as some copies have, `.idx`."""
    dotted = stem.replace("-idx", ".idx")
    return (f"{stem}.gz", stem, f"{dotted}.gz", dotted)


def read_file(path: Path) -> tuple[bytes, str]:
    """A file's content, decompressed if it is gzip, and the SHA-256 of the file as stored.

    Raises:
        DataError: The file cannot be read, or its compression is damaged or cut short.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    return gunzip(stored, str(path)), hashlib.sha256(stored).hexdigest()


def gunzip(stored: bytes, name: str) -> bytes:
    """`stored`, decompressed if it starts as gzip does.

    Raises:
        DataError: The compression is damaged or cut short; `name` says whose.
    """
    if not stored.startswith(_GZIP_MAGIC):
        return stored
    try:
        return gzip.decompress(stored)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{name} is damaged or cut short: expected a whole gzip file, got {len(stored)} bytes "
            f"that do not decompress ({error}). Fetch the file again."
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error


def _first(place: Path, names: Names) -> Path | None:
    """The first of `names` that is a file in `place`."""
    for name in names:
        path = place / name
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise DataError(f"cannot look into {place}: {error.strerror or error}.") from error
    return None
