"""Published files: fetched once, checked against a pinned SHA-256, kept in a cache."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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

_log = logging.getLogger("etastar.data")


@dataclass(frozen=True)
class Published:
    """The files that are published under a data set's name, and where."""

    name: str
    """The dataset's name in `DATASETS`; also its folder in the cache."""
    source: str
    """Whose data it is, and its home page."""
    licence: str
    mirrors: tuple[str, ...]
    """Addresses that a file's name is appended to, tried in this order."""
    files: dict[str, str]
    """SHA-256 by file name."""

    def raw_data(
        self, arrays: Sequence[NDArray[Any]], files: dict[str, str], folder: Path, split: str
    ) -> RawData:
        """Ten classes of images, with what is known of the published files.

        Args:
            arrays: Training images, training labels, validation images, validation labels.
            files: SHA-256 of the files that were read, by name.
            folder: Where those lie.
            split: The rule that separates training from validation.
        """
        x_train, y_train, x_val, y_val = arrays
        return RawData(
            name=self.name,
            x_train=x_train,
            y_train=y_train,
            x_val=x_val,
            y_val=y_val,
            classes=10,
            source=self.source,
            read_from=str(folder),
            licence=self.licence,
            split=split,
            files=files,
            checksums_match=files == self.files,
        )


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
    """One published file, from the cache or from the first mirror that has the right one."""
    import pooch

    sha256 = published.files[filename]
    failures = []
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # our own log says the same, in the application's hands
    try:
        for mirror in published.mirrors:
            url = mirror + filename
            try:
                return Path(
                    pooch.retrieve(
                        url,
                        known_hash=f"sha256:{sha256}",
                        fname=filename,
                        path=folder,
                        downloader=_checked_downloader(published.name, sha256, progress),
                    )
                )
            except DataError as error:
                failures.append(f"{url}: {error}")
            except (OSError, ValueError) as error:  # every error of requests is one of these
                failures.append(f"{url}: {type(error).__name__}: {_root(error)}")
    finally:
        logger.setLevel(level)
    wanted = ", ".join(published.files)
    raise DataError(
        f"could not download {filename} of {published.name} ({'; '.join(failures)}). If this "
        f"machine has no network, fetch the files by hand ({wanted}) into "
        f"FOLDER/{published.name}/ and pass --data-dir FOLDER (data_dir = in Python and in a "
        f"study file, or the environment variable {DATA_DIR_VARIABLE})."
    )


def _root(error: BaseException) -> str:
    """The first cause of an error of requests, which wraps it several times; one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    reason = getattr(error, "strerror", None) or str(error)
    return " ".join(reason.split())


def _checked_downloader(dataset: str, sha256: str, progress: bool) -> Callable[..., None]:
    """A downloader for pooch that checks what it got, so that an error can say what that was."""
    import pooch

    def download(url: str, output_file: str, manager: Any) -> None:
        _log.info("downloading %s", url)
        title = f"{dataset}: {url.rsplit('/', 1)[-1]}"
        with _bar(title) if progress else nullcontext(False) as bar:
            transfer = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=_CHUNK,
                timeout=_TIMEOUT,
                # a server that compresses on the way would have requests undo the file's own gzip
                headers={"Accept-Encoding": "identity"},
            )
            transfer(url, output_file, manager)
        got = sha256_of(Path(output_file))
        if got != sha256:
            raise DataError(f"wrong content, sha256 {got} instead of {sha256}")

    return download


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
