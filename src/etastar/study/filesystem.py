"""Files written as a whole or to a stream; folders on network file systems, for SQLite's log."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs"),
}
"""Types of file systems that several machines may mount at once."""

MOUNTS = Path("/proc/self/mountinfo")

OPEN_FILE = re.compile(r"/(?:proc/self|dev)/fd/(\d+)")
"""Names of this process's open files; `/dev/stdout` is a link to one."""
MOST_LINKS = 40
"""Links to follow in one path; Linux gives up there too."""
PROBE = 1 << 16
"""Bytes that are written to see whether there is room: about what a result or a picture takes."""


@contextmanager
def as_a_whole(path: Path) -> Iterator[Path]:
    """Give a file to write to, whose content goes to `path` in one move when the block ends.

    A symbolic link stays one: the file that it points to is replaced. What is no regular file
    (a device, a pipe, `/dev/stdout`) is written to instead, once the block has ended. If the block
    raises, what was there stays as it is, and nothing partial is left.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / f"stream{path.suffix}"
            yield partial
            with partial.open("rb") as source, _open_stream(path) as sink:
                shutil.copyfileobj(source, sink)
        return
    partial = _partial(path)
    try:
        yield partial
        os.replace(partial, os.path.realpath(path))
    finally:
        with suppress(OSError):
            partial.unlink()


def try_writing(path: Path) -> None:
    """Write a few blocks where `as_a_whole` would, and remove them; nothing that is there changes.

    Raises:
        OSError: The file could not be written: no permission, no room, no such folder.
        ValueError: The name cannot be one of a file.
    """
    if not is_stream(path):
        partial = _partial(path)
        try:
            with partial.open("xb") as file:
                file.write(bytes(PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):
                partial.unlink()
    elif not path.is_fifo() or _descriptor(path) is not None:
        with _open_stream(path) as sink:
            os.write(sink.fileno(), b"")  # /dev/full refuses even this; others take no notice
    elif not os.access(path, os.W_OK):  # a pipe is not opened: its reader would see it close
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def is_stream(path: Path) -> bool:
    """Tell whether a path is written to rather than replaced: a device, a pipe, an open file.

    An open file (`/dev/stdout`, `/dev/fd/3`) is one even where the shell sends it to a regular
    file: a file put in that one's place would not be what the shell writes.
    """
    return _descriptor(path) is not None or (
        path.exists() and not path.is_file() and not path.is_dir()
    )


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file that a path leads to, through any links."""
    for _ in range(MOST_LINKS):
        if found := OPEN_FILE.fullmatch(os.path.abspath(path)):
            return int(found[1])
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def _open_stream(path: Path) -> BinaryIO:
    """A stream, open for writing; an open file goes on where it stands."""
    number = _descriptor(path)
    if number is None:
        return path.open("wb")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return os.fdopen(os.dup(number), "wb")


def _partial(path: Path) -> Path:
    """The file that becomes `path`: beside it or what it links to, with the same ending."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():  # realpath stops at a link that leads to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    while True:  # a name that nothing has: what is there is the user's
        partial = target.with_name(f"{target.stem}.{secrets.token_hex(3)}{target.suffix}")
        if not os.path.lexists(partial):
            return partial


def is_network(folder: Path) -> bool:
    """Tell whether a folder is on a file system that other machines may have mounted.

    Only Linux tells; elsewhere the answer is no.
    """
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    kind = file_system(folder.resolve(), table)
    return kind in NETWORK or kind.startswith("fuse.")


def file_system(folder: Path, table: str) -> str:
    """Type of the file system that holds a folder, from the text of a `mountinfo` table.

    See proc_pid_mountinfo(5): field 5 is the mount point, the type follows the lone dash.
    """
    best, kind = -1, ""
    for line in table.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5 or not after.split():
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # a later mount on the same point hides the earlier one
        if (point == folder or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind
