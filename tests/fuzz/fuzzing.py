"""Damaged and hostile inputs, and what must become of each: a right answer, or one line.

Every `*_case` makes one input from a random generator, hands it to etastar as a user would, and
returns `right` or `refused`; anything else raises `Broken`. While etastar reads it, Python's audit
hooks watch that nothing is run, connected to, or written.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import math
import os
import random
import signal
import sqlite3
import struct
import sys
import tarfile
import tempfile
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from etastar.cli import main
from etastar.data import load
from etastar.errors import DataError, EtaStarError
from etastar.settings import Settings
from etastar.study.plan import costs
from etastar.study.specification import Study

QUICK = (Path(__file__).parents[2] / "studies" / "quick.toml").read_text(encoding="utf-8")
LONGEST_LINE = 2500
"""Characters of a message: a condition of up to 1000 may be quoted in it."""
SECONDS = 30
"""After which an input counts as a hang."""

FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "ctypes.dlopen"),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move", "pickle.find_class", "marshal.loads"),
)
"""Audit events that reading an input must never cause, beside opening a file for writing."""


class Broken(AssertionError):
    """An input that ended neither in a right answer nor in a one-line error."""


_watching = False
_seen: list[str] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        mode, flags = args[1], args[2]
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if writes or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            _seen.append(f"open {args[0]!r} for writing")
    elif event in FORBIDDEN:
        _seen.append(f"{event} {args!r:.200}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def watched(may_write: bool = False) -> Iterator[None]:
    """Refuses what an input must never cause: see `FORBIDDEN`; and warnings, and hangs.

    Raises:
        Broken: On leaving, with what was seen.
    """
    global _watching
    _seen.clear()

    def hang(*_: Any) -> None:
        raise Broken(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    _watching = not may_write
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        _watching = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if _seen:
        raise Broken(f"while reading: {_seen[0]}")


def one_line(text: str) -> None:
    """A message is one printable line of bounded length."""
    if not text or len(text) > LONGEST_LINE or not text.isprintable():
        raise Broken(f"not one printable line of at most {LONGEST_LINE} characters: {text[:300]!r}")


def command(*arguments: str | Path, may_write: bool = False) -> tuple[str, str]:
    """`etastar ARGUMENTS` in this process: `right` or `refused`, and what it printed on stdout.

    Raises:
        Broken: A traceback, an exit code that is neither 0 nor 2, or more than one line.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            watched(may_write),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main([str(argument) for argument in arguments])
    except Broken:
        raise
    except BaseException as error:
        raise Broken("".join(traceback.format_exception(error)[-6:])) from error
    if code == 0 and (not err.getvalue() or err.getvalue().startswith("WARNING: ")):
        if err.getvalue():  # that results are missing: their rows were damaged
            one_line(err.getvalue().strip())
        return "right", out.getvalue()
    if code != 2 or out.getvalue() or not err.getvalue().startswith("etastar: "):
        raise Broken(f"exit code {code}, {err.getvalue()!r}, {out.getvalue()[:200]!r}")
    one_line(err.getvalue().removesuffix("\n"))
    return "refused", ""


def attempt(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None if it raised an `EtaStarError` of one line.

    Raises:
        Broken: It raised something else.
    """
    try:
        with watched():
            return read()
    except EtaStarError as error:
        one_line(str(error))
        return None
    except Broken:
        raise
    except BaseException as error:
        raise Broken("".join(traceback.format_exception(error)[-6:])) from error


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content; not what SQLite keeps beside a database."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p): p.read_bytes() for p in files if not p.name.endswith(("-shm", "-wal"))}


def unchanged(folder: Path, before: dict[str, bytes]) -> None:
    """Nothing was written, changed or removed."""
    if listing(folder) != before:
        raise Broken(f"files changed: {sorted(listing(folder))}, before {sorted(before)}")


# Bytes


def damaged(rng: random.Random, content: bytes, *, first: int | None = None) -> bytes:
    """The bytes with one to four changes; `first`: only among so many at the beginning."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        end = min(first or len(changed), len(changed))
        at = rng.randrange(end) if end else 0
        kind = rng.randrange(7)
        if kind <= 1 and changed:
            changed[at] = rng.randrange(256)
        elif kind == 2 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.choice([1, 4, 64]))
        elif kind == 4:
            del changed[at : at + rng.choice([1, 4, 64, 4096])]
        elif kind == 5 and rng.random() < 0.4:
            del changed[at:]
        else:
            size = rng.choice([1, 4, 64])
            changed[at : at + size] = rng.choice([b"\0", b"\xff"]) * size
    return bytes(changed)


# Study files

WORDS = (
    *Settings.model_fields,
    *("filter", "grid", "cells", "base", "sharpness", "budget", "hours", "samples", "title"),
    *("width,depth", "width,width", "widht", "", "κ", "a b", "a.b", "x\ny", "\x1b[31m", "x" * 3000),
)


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """A value of any type that TOML knows, often at the edge of what is allowed."""
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice([0, 1, -1, 2, 7, 64, 2**31, 2**53, 2**60, 2**63 - 1, -(2**63), 2**64]),
        lambda: rng.choice([0.0, -0.0, 1.0, 0.5, 1e-300, 1e300, -1.0, 5e-324, 0.1, 1.0000001]),
        lambda: rng.choice([math.nan, math.inf, -math.inf]),
        lambda: rng.choice([True, False]),
        lambda: rng.choice(["mse", "cross-entropy", "full", "digits", "mnist", "hold", "layer"]),
        lambda: rng.choice(["width >= 8 * depth", "width > ", "((((", "1" * 900, "width ** 9**9"]),
        lambda: rng.choice(["", " ", "\n", "\x00", "\x1b[2J", "κ", "\U0001f600", "x" * 5000]),
        lambda: rng.choice(["cuda", "cuda:7", "meta", "cpu", "/etc/passwd", "../..", "a\nb"]),
        lambda: rng.choice(["__import__('os')", "width.__class__", "[x for x in width]"]),
        lambda: Raw(
            rng.choice(["2026-01-01", "07:32:00", "1979-05-27T07:32:00Z", "0x1F", "1_000"])
        ),
        lambda: Raw("9" * rng.choice([20, 400, 5000])),
    ]
    if depth < 4:
        kinds += [
            lambda: [odd_value(rng, depth + 1) for _ in range(rng.choice([0, 1, 2, 3]))],
            lambda: {
                rng.choice(WORDS): odd_value(rng, depth + 1) for _ in range(rng.randint(0, 2))
            },
        ]
    return rng.choice(kinds)()


class Raw(str):
    """TOML text that is written as it is."""


def toml(value: Any, depth: int = 0) -> str:
    """A value as inline TOML, cut off at a depth that this function itself survives."""
    if depth > 150:
        return "0"
    deeper = depth + 1
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return f"[{', '.join(toml(part, deeper) for part in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(k)} = {toml(v, deeper)}' for k, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a nested one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in inside:
        found.append((*path, key))
        if isinstance(part, dict | list):
            found += places(part, (*path, key))
    return found


def odd_tables(rng: random.Random) -> str:
    """The quick study, some of its values, keys or tables replaced, renamed, removed or nested."""
    content = tomllib.loads(QUICK)
    for _ in range(rng.randint(1, 4)):
        *parents, key = rng.choice(places(content) or [("base",)])
        inside: Any = content
        for parent in parents:
            inside = inside[parent]
        kind = rng.randrange(6)
        if kind <= 1 and inside:
            inside[key] = odd_value(rng)
        elif kind == 2:
            if isinstance(inside, dict):
                inside[rng.choice(WORDS)] = odd_value(rng)
            else:
                inside.append(odd_value(rng))
        elif kind == 3 and inside:
            del inside[key]
        elif kind == 4 and isinstance(inside, dict) and key in inside and key:
            letters = list(key)
            at = rng.randrange(len(letters))
            letters[at] = rng.choice("aeiou_κ .")
            inside["".join(letters)] = inside.pop(key)
        elif isinstance(inside, list) or key in inside:
            for _ in range(rng.choice([1, 3, 40])):
                inside[key] = rng.choice(([inside[key]], {"x": inside[key]}))
    return "\n".join(f"{toml(key)} = {toml(value)}" for key, value in content.items())


def odd_text(rng: random.Random) -> str:
    """The text of the quick study with lines and characters moved, doubled, cut or put in."""
    text = QUICK
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(text) + 1), rng.choice([1, 2, 10, 80])
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines)) if lines else 0
        cut = text[:at] + text[at + size :]
        put = text[:at] + rng.choice("[]{}\"'=#,.\n\x00\ufeff\u202e0-") * size + text[at:]
        doubled = "".join([*lines[:line], *lines[line : line + 1] * 2, *lines[line + 1 :]])
        removed = "".join([*lines[:line], *lines[line + 1 :]])
        text = rng.choice([cut, put, doubled, removed])
    return text


def study_case(rng: random.Random, folder: Path) -> str:
    """A damaged study file, through `etastar study status` and the check of every cell."""
    kind = rng.randrange(5)
    if kind == 0:
        content = damaged(rng, QUICK.encode())
    else:
        content = (odd_tables if kind > 1 else odd_text)(rng).encode("utf-8", "surrogatepass")
    path = folder / "study.toml"
    path.write_bytes(content)
    before = listing(folder)
    outcome, _ = command("study", "status", path)
    if outcome == "right":
        study = Study.from_file(path)
        check_cells(study, tomllib.loads(content.decode("utf-8-sig")))
        if len(study.cells) <= 100:
            outcome = "refused" if attempt(lambda: costs(study)) is None else "right"
    unchanged(folder, before)
    return outcome


def check_cells(study: Study, content: dict[str, Any]) -> None:
    """Every setting of every cell is a default or stands in the file, as itself."""
    written: dict[str, list[Any]] = {name: [] for name in Settings.model_fields}
    grids = content.get("grid", [])
    for table in [content.get("base", {}), *content.get("cells", [])]:
        for key, value in table.items():
            written[key].append(value)
    for grid in grids if isinstance(grids, list) else [grids]:
        for key, values in grid.items():
            if key == "filter":
                continue
            names = [name.strip() for name in key.split(",")]
            for value in values if isinstance(values, list) else [values]:
                for name, part in zip(names, value if len(names) > 1 else [value], strict=True):
                    written[name].append(part)
    defaults = Settings().bracketing().model_dump()
    for cell in study.cells:
        for name, value in cell.settings.model_dump().items():
            default = defaults[name]
            merged = name in ("seeds", "first_seed")  # of cells that are the same otherwise
            # a whole number stands for the float nearest to it
            known = written[name] + [float(v) for v in written[name] if type(v) is int]
            if value != default and value not in known and not merged:
                raise Broken(f"{name} = {value!r} does not stand in the file")


# Data files


def idx(array: np.ndarray[Any, Any]) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def good_idx() -> dict[str, bytes]:
    """Four small files in MNIST's naming."""
    rng = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


GOOD_IDX = good_idx()


def idx_case(rng: random.Random, folder: Path) -> str:
    """Four IDX files, one of them damaged, inside or outside its compression."""
    bad = rng.choice(sorted(GOOD_IDX))
    files = {}
    for name, content in GOOD_IDX.items():
        if name == bad and (inside := rng.random() < 0.7):
            content = damaged(rng, content, first=rng.choice([16, None]))
        if rng.random() < 0.5:
            name, content = f"{name}.gz", gzip.compress(content, 1, mtime=0)
        if name.removesuffix(".gz") == bad and not inside:
            content = damaged(rng, content, first=rng.choice([20, None]))
        files[name] = content
    for name, content in files.items():
        (folder / name).write_bytes(content)
    before = listing(folder)
    found = attempt(lambda: load("mnist", data_dir=folder))
    unchanged(folder, before)
    if found is None:
        return "refused"
    for part, ours in (("train", "train"), ("t10k", "val")):
        raw = []
        for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
            content = files[stem] if stem in files else files[f"{stem}.gz"]
            raw.append(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        labels = np.frombuffer(raw[1], np.uint8, offset=8)
        pixels = np.frombuffer(raw[0], np.uint8, offset=16).reshape(len(labels), 784)
        x = getattr(found, f"x_{ours}")
        expected = (pixels - found.provenance["mean"]) / found.provenance["std"]
        if not (
            np.array_equal(getattr(found, f"y_{ours}").numpy(), labels)
            and labels.max() <= 9
            and np.allclose(x.numpy(), expected, rtol=1e-4, atol=1e-4)
        ):
            raise Broken("the data are not those of the files")
    return "right"


def cifar_batch(seed: int) -> bytes:
    """A batch of two images in the words of Python 2's pickle, as CIFAR's own files are."""
    images = np.random.default_rng(seed).integers(0, 256, (2, 3072), dtype=np.uint8)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xff" * 2 + b"K\0tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    )
    array += b"(K\1K\2M\0\x0c\x86" + dtype + b"I00\nT" + struct.pack("<i", 6144) + images.tobytes()
    labels = b"](K" + bytes([seed % 10]) + b"K" + bytes([(seed + 3) % 10]) + b"e"
    return b"\x80\2}(" + text(b"labels") + labels + text(b"data") + array + b"tb" + b"u."


CIFAR = {f"data_batch_{n}": cifar_batch(n) for n in range(1, 6)} | {"test_batch": cifar_batch(0)}


def hostile(rng: random.Random, target: Path) -> bytes:
    """Instructions that would create `target` if a pickle could call anything."""
    shell = b"S'touch " + str(target).encode() + b"'\n"
    python = b"S'open(\"" + str(target).encode() + b'", "w")\'\n'
    return rng.choice(
        [
            b"cposix\nsystem\n(" + shell + b"tR",
            b"(" + shell + b"iposix\nsystem\n",
            b"(cposix\nsystem\n" + shell + b"o",
            b"cbuiltins\neval\n(" + python + b"tR",
            b"cbuiltins\nexec\n(" + python + b"tR",
            b"\x8c\x02os\x8c\x06system\x93" + shell + b"\x85R",
            b"cnumpy\ndtype\n(" + shell + b"tR}(S'__class__'\ncposix\nsystem\nub",
            b"cnumpy\nndarray\n)\x81",
            b"\x82\x01",
            b"Pname\n",
        ]
    )


def cifar_case(rng: random.Random, folder: Path) -> str:
    """CIFAR-10 as its archive or its six batches: pickle, tar or gzip damaged, or calls put in."""
    target = folder.parent / f"{folder.name}-touched"
    batches = dict(CIFAR)
    kind = rng.randrange(5)
    name = rng.choice(sorted(batches))
    content = batches[name]
    if kind <= 1:
        # the pixels are most of it and any of their bytes is right: aim at the words around them
        batches[name] = (
            damaged(rng, content[:230]) + content[230:] if kind else damaged(rng, content)
        )
    elif kind == 2:
        at = rng.choice([2, 3, 4, rng.randrange(200), len(content) - 2, len(content) - 1])
        batches[name] = content[:at] + hostile(rng, target) + content[at:]
    if kind == 3 or rng.random() < 0.3:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for member_name, body in batches.items():
                member = tarfile.TarInfo(
                    rng.choice(["cifar-10-batches-py/", "", "/", "../"]) + member_name
                )
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
        tar = buffer.getvalue()
        if kind == 3:
            block = rng.choice(
                [at for at in range(0, len(tar), 512) if tar[at + 257 :][:5] == b"ustar"]
            )
            tar = tar[:block] + damaged(rng, tar[block : block + 512]) + tar[block + 512 :]
        packed = gzip.compress(tar, 1, mtime=0)
        files = {"cifar-10-python.tar.gz": damaged(rng, packed) if kind == 4 else packed}
    else:
        files = {f"cifar-10-batches-py/{n}": body for n, body in batches.items()}
        if kind == 4:
            files[f"cifar-10-batches-py/{name}"] = damaged(rng, gzip.compress(content, 1, mtime=0))
    for file, body in files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    before = listing(folder)
    found = attempt(lambda: load("cifar10", data_dir=folder))
    unchanged(folder, before)
    if target.exists():
        raise Broken("a pickle called something")
    if found is None:
        return "refused"
    for part in ("train", "val"):
        x, y = getattr(found, f"x_{part}"), getattr(found, f"y_{part}")
        if x.shape[1] != 3072 or not x.isfinite().all() or y.max() > 9 or len(x) != len(y):
            raise Broken("the data are not images with labels")
    return "right"


# Stores


def odd_database(rng: random.Random, content: bytes) -> bytes:
    """A store with bytes, pages or its end damaged."""
    kind = rng.randrange(6)
    if kind <= 2:
        return damaged(rng, content, first=rng.choice([100, 4096, None, None]))
    page = 4096
    pages = [content[at : at + page] for at in range(0, len(content), page)]
    one, other = rng.randrange(len(pages)), rng.randrange(len(pages))
    if kind == 3:
        pages[one] = rng.choice([bytes(page), rng.randbytes(page), pages[other]])
    elif kind == 4:
        pages[one], pages[other] = pages[other], pages[one]
    else:
        del pages[one]
    return b"".join(pages)


ODD_VALUES = (
    None,
    -1,
    0,
    2**62,
    1e308,
    -1e308,
    1e-320,
    "",
    "x",
    "[",
    "{}",
    "[1, 2",
    b"\xff",
    b"",
    "null",
)


def odd_content(rng: random.Random, path: Path) -> None:
    """Sound SQLite in which one value, column or table is not what etastar writes."""
    connection = sqlite3.connect(path)
    tables = [t for (t,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    table = rng.choice(sorted(tables))
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    column = rng.choice(columns)
    with contextlib.suppress(sqlite3.Error):  # the table's own constraints may refuse
        kind = rng.randrange(10)
        if kind == 0:
            connection.execute(f"DROP TABLE {table}")
        elif kind == 1:
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO odd")
        elif kind == 2:
            connection.execute(f"DELETE FROM {table}")
        elif kind == 3:
            connection.execute(f"PRAGMA {rng.choice(['user_version', 'application_id'])} = 7")
        else:
            value = rng.choice(ODD_VALUES)
            few = f" WHERE {column} = (SELECT {column} FROM {table} LIMIT 1)"
            connection.execute(
                f"UPDATE OR REPLACE {table} SET {column} = ?{rng.choice(['', few])}", (value,)
            )
        connection.commit()
    connection.close()


def store_case(rng: random.Random, folder: Path, study: str, good: bytes, fit: bool = False) -> str:
    """A damaged store, through `study status` and `study export`, now and then `study fit`."""
    path, store, out = folder / "study.toml", folder / "study.sqlite", folder / "out.csv"
    path.write_text(study, encoding="utf-8")
    store.write_bytes(good)
    if rng.random() < 0.5:
        odd_content(rng, store)
    else:
        store.write_bytes(odd_database(rng, good))
    before = listing(folder)
    outcomes = [command("study", "status", path, may_write=True)[0]]
    unchanged(folder, before)
    table = rng.choice(["seeds", "trials"])
    outcomes.append(
        command("study", "export", path, "--table", table, "--output", out, may_write=True)[0]
    )
    if outcomes[-1] == "right":
        rows = out.read_text(encoding="utf-8").splitlines()
        if len({len(row) for row in csv.reader(rows)}) != 1:
            raise Broken(f"the exported table is ragged: {rows[:3]}")
        out.unlink()
    unchanged(folder, before)
    if fit:
        outcomes.append(command("study", "fit", path, may_write=True)[0])
        unchanged(folder, before)
    return "refused" if "refused" in outcomes else "right"


def warm_up() -> None:
    """Reads one good input of each kind, so that all modules are imported before the watch."""
    costs(Study.from_text('[grid]\nwidth = 8\ndataset = ["digits", "gaussians"]'))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in GOOD_IDX.items():
            (folder / file).write_bytes(content)
        load("mnist", data_dir=folder)
        for file, content in CIFAR.items():
            (folder / file).write_bytes(content)
        load("cifar10", data_dir=folder)
        (folder / "study.toml").write_text("[grid]\nwidth = 8")
        for arguments in (["status"], ["export"], ["fit"]):
            with contextlib.suppress(Broken):
                command("study", *arguments, folder / "study.toml", may_write=True)


CASES: dict[str, Callable[..., str]] = {
    "study files": study_case,
    "IDX files": idx_case,
    "CIFAR-10 archives and batches": cifar_case,
    "stores": store_case,
}

__all__ = ["CASES", "Broken", "DataError", "attempt", "command"]
