"""Files that a command writes: what cannot be written is found first, what can be is never lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from etastar.cli import main
from etastar.cli.output import check_figure, check_output, write_results, write_text
from etastar.errors import ConfigError, EtaStarError
from etastar.study.filesystem import as_a_whole

STUDY = "[grid]\nwidth = 8\nmax_steps = 3\nseeds = 1\n"


def writer(content: str) -> Callable[[Path], object]:
    return lambda partial: partial.write_text(content, encoding="utf-8")


def broken(_: Path) -> None:
    raise RuntimeError("no fonts")


def inventory(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


# found before anything is measured

IMPOSSIBLE = {
    "": "is empty",
    "  ": "is empty",
    "{folder}": "is a folder",
    "{folder}/new/": "is a folder|does not exist",
    "{folder}/..": "is a folder",
    "{folder}/missing/x.png": "does not exist",
    "{folder}/plain/x.png": "does not exist",
    "{folder}/loop": "cannot be written: ",
    "{folder}/dangling": "cannot be written: No such file",
    "{folder}/{long}.png": "cannot be written: File name too long",
    "{folder}/a\0b.png": "cannot be written: ValueError",
    "{folder}/link-to-full": "cannot be written: No space left on device",
    "/proc/x.png": "cannot be written: ",
    "/proc/version": "cannot be written: ",
    "/dev/full": "cannot be written: No space left on device",
    "/dev/fd/987": "cannot be written: ",
}


def test_no_file_that_is_there_is_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter(["abcdef", "abcdef", "012345", "abcdef", "6789ab"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(tokens))
    theirs = tmp_path / "a.abcdef.json"
    theirs.write_text("precious")
    check_output(str(tmp_path / "a.json"))
    with as_a_whole(tmp_path / "a.json") as partial:
        partial.write_text("found")
    assert inventory(tmp_path) == [(str(theirs), 8), (str(tmp_path / "a.json"), 5)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "--json", "{0}/x.png", "--plot", "{0}/x.png"],
        ["measure", "--json", "{0}/x.png", "--plot", "{0}/link.png"],
        ["model", "my:build", "--dataset", "digits", "--json", "{0}/x", "--store", "{0}/x"],
    ],
)
def test_two_outputs_are_two_files(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    assert main([word.format(tmp_path) for word in arguments]) == 2
    told = capsys.readouterr().err
    assert "name one file" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_written_is_found_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing" / "x")
    (tmp_path / "link-to-full").symlink_to("/dev/full")
    before = inventory(tmp_path)
    with pytest.raises(ConfigError, match=IMPOSSIBLE[name]):
        check_output(name.format(folder=tmp_path, long="x" * 300))
    assert inventory(tmp_path) == before


def test_what_can_be_written_is_not_touched_by_the_look(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("the old one")
    (tmp_path / "link.json").symlink_to(old)
    os.mkfifo(tmp_path / "pipe")
    before = inventory(tmp_path)
    names = ("old.json", "link.json", "pipe", "new.json")
    for file in (None, "-", "/dev/null", *(str(tmp_path / name) for name in names)):
        check_output(file)
    assert inventory(tmp_path) == before
    assert old.read_text() == "the old one"


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:  # root may write everywhere
        patch.setattr(Path, "open", denied)
        with pytest.raises(ConfigError, match=r"x\.json cannot be written: Permission denied"):
            check_output(str(tmp_path / "x.json"))


LIMITED = """
import resource, signal, sys
from etastar.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str, code: str = "from etastar.cli import main; import sys; sys.exit(main())",
        **options: object) -> subprocess.CompletedProcess[str]:  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


MEASURE = ("measure", "--width", "8", "--depth", "1", "--max-steps", "20", "--seeds", "1",
           "--threshold", "0.2", "--resolution", "1")  # fmt: skip


def test_a_full_disk_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    # a measurement that would never end
    done = run(*MEASURE, "--seeds", "1000000", "--json", str(file), code=LIMITED)
    assert (done.returncode, done.stderr) == (
        *(2, f"etastar: {file} cannot be written: File too large.\n"),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_picture_needs_a_known_ending() -> None:
    with pytest.raises(ConfigError, match=r"--plot x\.gif: the name must end in \.png"):
        check_figure("x.gif")


# what was measured is written whatever fails after it


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_each_result_is_written_whatever_becomes_of_the_others(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    good, other = str(tmp_path / "good.json"), str(tmp_path / "other.json")
    (tmp_path / "bad.png").write_text("the old one")
    outputs = [
        *((good, writer("good")), (str(tmp_path / "bad.png"), broken), (other, writer("other"))),
    ]
    with pytest.raises(EtaStarError) as caught:
        write_results([outputs[i] for i in order])
    assert str(caught.value) == (
        f"{tmp_path / 'bad.png'} cannot be written: RuntimeError: no fonts."
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "good.json": "good",
        "bad.png": "the old one",
        "other.json": "other",
    }


def test_one_error_names_all_that_failed(tmp_path: Path) -> None:
    def wrong(_: Path) -> None:
        raise ConfigError("nothing to draw.")

    missing = str(tmp_path / "missing" / "x.json")
    with pytest.raises(EtaStarError) as caught:
        write_results([(missing, writer("x")), ("/dev/full", writer("x")), ("a.png", wrong)])
    assert str(caught.value) == (
        f"{missing} cannot be written: No such file or directory; "
        "/dev/full cannot be written: No space left on device; a.png: nothing to draw."
    )


def test_what_is_not_asked_for_is_left_out_and_ctrl_c_passes(tmp_path: Path) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    write_results([(None, broken), (str(tmp_path / "x"), writer("x"))])
    with pytest.raises(KeyboardInterrupt):
        write_results([(str(tmp_path / "x"), interrupt)])
    assert (tmp_path / "x").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# streams and links


def received(pipe: Path, send: Callable[[], None]) -> str:
    """What comes out of a named pipe."""
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    send()
    reader.join(10)
    return found[0]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_to(tmp_path: Path, through_a_link: bool) -> None:
    pipe = name = tmp_path / "pipe"
    os.mkfifo(pipe)
    if through_a_link:
        name = tmp_path / "link"
        name.symlink_to(pipe)
    assert received(pipe, lambda: write_text("η*", str(name))) == "η*"
    assert pipe.is_fifo()
    assert name.is_symlink() == through_a_link


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_device_is_written_to_and_stays_one(tmp_path: Path, through_a_link: bool) -> None:
    name = Path("/dev/null")
    if through_a_link:
        name = tmp_path / "link"
        name.symlink_to("/dev/null")
    for _ in range(2):
        write_text("x", str(name))
        assert name.is_char_device()
    assert name.is_symlink() == through_a_link
    assert not list(Path("/dev").glob("*partial*"))


def test_nothing_reaches_a_stream_from_a_writer_that_fails(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def half(partial: Path) -> None:
        partial.write_text("half of")
        raise OSError(28, "No space left on device")

    with pytest.raises(EtaStarError, match="No space left"):
        write_results([(str(pipe), half)])  # would wait for a reader if it opened the pipe
    assert pipe.is_fifo()


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x.json").write_text("the old one")
    (tmp_path / "one").symlink_to("there/x.json")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    check_output(str(tmp_path / "two"))
    write_text("new", str(tmp_path / "two"))
    assert os.readlink(tmp_path / "one") == "there/x.json"
    assert (tmp_path / "two").is_symlink()
    assert (tmp_path / "there" / "x.json").read_text() == "new"
    (tmp_path / "future").symlink_to("there/y.json")  # a link to a file that is not there yet
    write_text("new", str(tmp_path / "future"))
    assert (tmp_path / "there" / "y.json").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["x.json", "y.json"]


def test_the_file_to_write_has_the_ending_of_the_one_named(tmp_path: Path) -> None:
    with as_a_whole(tmp_path / "a.b.png") as partial:
        assert (partial.suffix, partial.parent) == (".png", tmp_path)
        partial.touch()
    with as_a_whole(Path("/dev/null")) as partial:
        partial.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.b.png"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(STUDY)
    return path


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_that_goes_to_a_file_is_that_file(
    tmp_path: Path, study: Path, name: str
) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    out = tmp_path / "out"
    with out.open("w") as opened:
        opened.write("before\n")
        opened.flush()
        done = run("study", "status", str(study), "--json", name, stdout=opened, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        opened.write("after\n")
    text = out.read_text()
    assert text.startswith('before\n{\n  "study"')
    assert text.endswith("}\nafter\n")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_full_standard_output_is_one_line(study: Path, name: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = run("study", "status", str(study), "--json", name, stdout=full)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["measure", "--help"], ["study", "status"]])
def test_whatever_is_printed_to_a_full_device_is_one_line(words: list[str], study: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*words, *([str(study)] if words[0] == "study" else []), stdout=full)
    line = "etastar: standard output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_a_reader_that_has_gone_is_no_error(study: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("study", "status", str(study), "--json", "-", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")  # as a shell reports SIGPIPE


@pytest.mark.parametrize(
    "arguments",
    [("status", "--json"), ("fit", "--json"), ("report", "--output"), ("export", "--output")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("file", ["", "/proc/x.html", "/dev/full", "missing/x", "."])
def test_every_command_of_a_study_looks_first(
    arguments: tuple[str, str], file: str, study: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def opened(*_: object) -> None:
        raise AssertionError("the store was opened first")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etastar.study.store.Store.__init__", opened)
    command, option = arguments
    assert main(["study", command, str(study), option, file]) == 2
    said = capsys.readouterr().err
    assert said.startswith("etastar: ")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
