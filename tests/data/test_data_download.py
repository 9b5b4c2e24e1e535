"""The downloader, against a server on this machine: right, wrong, dead, cut short, cached."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
from made_files import cifar_archive, cifar_batches, write_idx_set

from etastar.data import load
from etastar.data.download import PUBLISHED, Published, cache_folder, fetch
from etastar.errors import DataError

BODY = gzip.compress(b"the right bytes" * 500, mtime=0)
SHA256 = hashlib.sha256(BODY).hexdigest()


def published(*mirrors: str) -> Published:
    return Published("made-up", "nowhere", "none", mirrors, {"file.gz": SHA256})


@pytest.fixture
def dead() -> str:
    """An address on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_the_right_file_is_kept_and_not_asked_for_again(server, tmp_path):
    server.bodies["/file.gz"] = BODY
    for _ in range(2):
        [path] = fetch(published(server.url))
        assert path == tmp_path / "cache" / "made-up" / "file.gz"
        assert path.read_bytes() == BODY
    assert server.asked == ["/file.gz"]


def test_a_cached_file_needs_no_server(server, dead):
    server.bodies["/file.gz"] = BODY
    fetch(published(server.url))
    [path] = fetch(published(dead))
    assert path.read_bytes() == BODY


def test_a_damaged_cached_file_is_fetched_again(server):
    server.bodies["/file.gz"] = BODY
    [path] = fetch(published(server.url))
    path.write_bytes(BODY[:-1])
    fetch(published(server.url))
    assert path.read_bytes() == BODY
    assert len(server.asked) == 2


def test_wrong_content_names_file_expected_and_got_and_leaves_nothing(server, tmp_path):
    server.bodies["/file.gz"] = b"an error page"
    got = hashlib.sha256(b"an error page").hexdigest()
    match = f"file.gz of made-up.*does not match.*expected sha256:{SHA256} but got {got}"
    with pytest.raises(DataError, match=match):
        fetch(published(server.url))
    assert cached(tmp_path) == []


def test_no_network(dead, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(published(dead))
    message = str(caught.value)
    assert "\n" not in message
    assert dead + "file.gz: ConnectionError: Connection refused)" in message
    assert "no network" in message
    assert "fetch the files by hand (file.gz) into FOLDER/made-up/" in message
    assert "`data_dir='FOLDER'`" in message
    assert cached(tmp_path) == []


def test_every_failed_mirror_is_listed(server, dead):
    with pytest.raises(DataError, match=r"ConnectionError.*HTTPError: 404") as caught:
        fetch(published(dead, server.url))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", ["dead", "missing", "wrong"])
def test_the_second_mirror_helps(server, dead, first):
    server.bodies |= {"/good/file.gz": BODY, "/wrong/file.gz": b"something else"}
    mirror = dead if first == "dead" else f"{server.url}{first}/"
    [path] = fetch(published(mirror, server.url + "good/"))
    assert path.read_bytes() == BODY


def test_a_transfer_cut_short_leaves_nothing(server, tmp_path):
    server.bodies["/file.gz"] = BODY
    server.missing_bytes = 10
    with pytest.raises(DataError, match=r"file.gz: \w*(Chunked|Connection|Protocol)\w*Error"):
        fetch(published(server.url))
    assert cached(tmp_path) == []


def test_progress_off_a_terminal_is_one_line_on_stderr(server, capsys):
    server.bodies["/file.gz"] = BODY
    fetch(published(server.url), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "downloading made-up: file.gz\n"


def test_without_progress_nothing_is_printed_but_it_is_logged(server, capsys, caplog):
    server.bodies["/file.gz"] = BODY
    theirs = pooch.get_logger()  # prints to standard error by itself
    theirs.addHandler(caplog.handler)
    level = theirs.level
    try:
        with caplog.at_level(logging.INFO, "etastar.data"):
            fetch(published(server.url))
    finally:
        theirs.removeHandler(caplog.handler)
    assert capsys.readouterr() == ("", "")
    assert [record.message for record in caplog.records if record.levelno >= logging.INFO] == [
        f"downloading {server.url}file.gz"
    ]
    assert theirs.level == level


def test_progress_bar_on_a_terminal(server, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("TERM", "xterm")
    server.bodies["/file.gz"] = BODY
    fetch(published(server.url), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "file.gz" in captured.err
    assert f"{len(BODY)}/{len(BODY)}" in captured.err


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("ETASTAR_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("ETASTAR_CACHE_DIR")
    assert cache_folder().name == "etastar"


def test_a_cache_that_cannot_be_made(monkeypatch, tmp_path, dead):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ETASTAR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot create the cache folder .*ETASTAR_CACHE_DIR"):
        fetch(published(dead))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_load_downloads_and_says_so_in_the_provenance(server, monkeypatch, tmp_path, name):
    theirs = PUBLISHED[name]
    if name == "cifar10":
        bodies = {"cifar-10-python.tar.gz": cifar_archive(cifar_batches()[0])}
    else:
        write_idx_set(tmp_path / "made")
        bodies = {file: (tmp_path / "made" / file).read_bytes() for file in theirs.files}
    server.bodies = {f"/{file}": body for file, body in bodies.items()}
    sums = {file: hashlib.sha256(body).hexdigest() for file, body in bodies.items()}
    monkeypatch.setitem(PUBLISHED, name, replace(theirs, mirrors=(server.url,), files=sums))
    data = load(name)
    assert len(data.x_train) == 20
    assert data.provenance["files"] == sums
    assert data.provenance["checksums_match"] is True
    assert data.provenance["read_from"] == str(tmp_path / "cache" / name)
    json.dumps(data.provenance, allow_nan=False)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_pins_are_sha256_and_mirrors_are_folders(name):
    pinned = PUBLISHED[name]
    assert len(pinned.mirrors) >= 2
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in pinned.mirrors)
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in pinned.files.values())
