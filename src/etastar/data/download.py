"""Published files: fetched once, checked against a pinned SHA-256, kept in a cache."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numpy.typing import NDArray

from etastar.data.files import DATA_DIR_VARIABLE, sha256_of
from etastar.data.raw import RawData
from etastar.errors import DataError

CACHE_DIR_VARIABLE = "ETASTAR_CACHE_DIR"
"""Environment variable that moves the cache."""

_TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces of the answer; then the next mirror is tried."""

_CHUNK = 1 << 16
"""Bytes per write; pooch's own 1 kB costs a flush for each of 170,000 pieces of CIFAR-10."""

_HEADERS = {"Accept-Encoding": "identity"}
"""A server that compresses on the way would have requests undo the file's own gzip."""

_log = logging.getLogger("etastar.data")


@dataclass(frozen=True)
class Published:
    """The files that are published under a data set's name, and where."""

    name: str
    """The dataset's name in `DATASETS`; also its folder in the cache."""
    source: str
    """Whose data it is, and its home page."""
    licence: str
    mirrors: Sequence[str]
    """Addresses that a file's name is appended to, tried in this order."""
    files: dict[str, str]
    """SHA-256 by file name."""

    def raw_data(
        self, arrays: Sequence[NDArray[Any]], files: dict[str, str], folder: Path, split: str
    ) -> RawData:
        """Return ten classes of images, with what is known of the published files.

        Args:
            arrays: Training images, training labels, validation images, validation labels.
            files: SHA-256 of the files that were read, by name.
            folder: Where those lie.
            split: The rule that separates training from validation.
        """
        about = (10, self.source, str(folder), self.licence, split, files, files == self.files)
        parts: Any = (*arrays, *about)
        return RawData(self.name, *parts)


PUBLISHED = {
    name: Published(name, **entry)
    for name, entry in tomllib.loads(
        (resources.files("etastar.data") / "published.toml").read_text(encoding="utf-8")
    ).items()
}
"""The image sets of `published.toml`."""


def cache_folder() -> Path:
    """Where downloads are kept: `ETASTAR_CACHE_DIR`, else the system's place for caches."""
    named = os.environ.get(CACHE_DIR_VARIABLE)
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("etastar"))


def fetch(published: Published, progress: bool = False) -> list[Path]:
    """The published files, from the cache or from the first mirror that has the right ones.

    Args:
        published: What to fetch.
        progress: Show a progress bar on standard error.

    Returns:
        The files in the order of `published.files`, each with the pinned SHA-256.

    Raises:
        DataError: The cache cannot be written, or no mirror gave a file with the pinned SHA-256;
            nothing partial or wrong is left in the cache.
    """
    folder = cache_folder() / published.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot create the cache folder {folder}: {error.strerror or error}. Name a folder "
            f"that can be written with the environment variable {CACHE_DIR_VARIABLE}."
        ) from error
    return [_fetch_file(published, filename, folder, progress) for filename in published.files]


def _fetch_file(published: Published, filename: str, folder: Path, progress: bool) -> Path:
    """Return one published file, from the cache or from the first mirror that has the right one."""
    path, sha256 = folder / filename, published.files[filename]
    if path.is_file() and sha256_of(path) == sha256:
        return path
    import pooch

    failures = []
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # our own log says the same, in the application's hands
    try:
        for url in (mirror + filename for mirror in published.mirrors):
            _log.info("downloading %s", url)
            title = f"{published.name}: {filename}"
            try:
                with _bar(title) if progress else nullcontext(False) as bar:
                    transfer = pooch.HTTPDownloader(
                        progressbar=bar, chunk_size=_CHUNK, timeout=_TIMEOUT, headers=_HEADERS
                    )
                    pooch.retrieve(url, f"sha256:{sha256}", filename, folder, downloader=transfer)
                return path
            except (OSError, ValueError) as error:  # every error of requests is one of these
                failures.append(f"{url}: {type(error).__name__}: {_root(error)}")
    finally:
        logger.setLevel(level)
    wanted = ", ".join(published.files)
    raise DataError(
        f"could not download {filename} of {published.name} ({'; '.join(failures)}). If this "
        f"machine has no network, fetch the files by hand ({wanted}) into "
        f"FOLDER/{published.name}/ and give `data_dir='FOLDER'` (or set {DATA_DIR_VARIABLE})."
    )


def _root(error: BaseException) -> str:
    """The first cause of an error of requests, which wraps it several times; one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    reason = getattr(error, "strerror", None) or str(error)
    return " ".join(reason.split())


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    """A progress bar as pooch wants one; a plain line where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    if not console.is_terminal:
        console.print(f"downloading {title}", highlight=False)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task(title, total=None)
        bar = SimpleNamespace(total=0, close=shown.stop, reset=lambda: shown.reset(task))
        bar.update = lambda count: shown.update(task, advance=count, total=bar.total or None)
        yield bar
