"""Files written as a whole; folders on network file systems, where SQLite's log does not work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs"),
}
"""Types of file systems that several machines may mount at once."""

MOUNTS = Path("/proc/self/mountinfo")


@contextmanager
def as_a_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes that place in one move when the block ends.

    If the block raises, what was there stays as it is, and nothing partial is left.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def is_network(folder: Path) -> bool:
    """Whether the folder is on a file system that other machines may have mounted.

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
