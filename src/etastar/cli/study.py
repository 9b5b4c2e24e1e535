"""`etastar study run|status|fit|report|export`: each a function that parses, calls and prints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from etastar.cli import INTERRUPTED
from etastar.cli.options import parse
from etastar.cli.output import check_output, progress_bar, write_results, write_text
from etastar.errors import ConfigError, unknown_name
from etastar.scaling.cells import Response
from etastar.study.cell_rows import cell_table
from etastar.study.cost import calibrate
from etastar.study.executors import EXECUTORS, make_executor
from etastar.study.export import FORMATS, TABLES
from etastar.study.filesystem import is_stream
from etastar.study.plan import State, costs, identities, plan
from etastar.study.runner import Progress, run_study
from etastar.study.specification import Study
from etastar.study.store import Store
from etastar.validation import OneOf


class _Options(BaseModel):
    """Options that all of the commands have: a study, and its store."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: str = Field(description="The study file, *.toml.")
    store: str | None = Field(
        None, description="The store; studies may share one. [default: STUDY.sqlite beside it]"
    )

    def opened(self) -> tuple[Study, Path]:
        """The study, checked, and the path of its store."""
        study = Study.from_file(self.study)
        return study, Path(self.store) if self.store else study.default_store


class RunOptions(_Options):
    """Options of `study run`."""

    resume: bool = Field(
        True, description="Go on from what the store holds; --no-resume refuses a used store."
    )
    dry_run: bool = Field(False, description="Print the cells and a time estimate; run nothing.")
    hours: float | None = Field(
        None, gt=0.0, allow_inf_nan=False, description="Start nothing new after so many hours."
    )
    retry_failed: bool = Field(False, description="Try again what was given up in earlier runs.")
    wait: bool = Field(
        True, description="Wait for another process that is writing the store; else refuse."
    )
    executor: Annotated[str | None, OneOf("executor", EXECUTORS)] = Field(
        None, description="Where cells run. [default: in-process; dask with the options below]"
    )
    workers: int | None = Field(None, ge=1, description="Dask worker processes to start here.")
    scheduler: str | None = Field(None, description="Address of a Dask scheduler that runs.")


class StatusOptions(_Options):
    """Options of `study status`."""

    json_file: str | None = Field(None, alias="json", description="Write it as JSON; - is stdout.")


class FitOptions(_Options):
    """Options of `study fit`."""

    response: Response = Field(
        "eta_star", description="What the law is of: η*, λ1, or their product."
    )
    cutoff: float | None = Field(
        None, ge=0.0, allow_inf_nan=False, description="Use only cells with n/L at least this."
    )
    json_file: str | None = Field(None, alias="json", description="Write it as JSON; - is stdout.")


class ReportOptions(_Options):
    """Options of `study report`."""

    output: str | None = Field(None, description="The page. [default: STUDY.html beside the study]")


class ExportOptions(_Options):
    """Options of `study export`."""

    format: Literal["csv", "parquet"] = Field("csv", description="Format of the file.")
    table: Literal["seeds", "trials"] = Field(
        "seeds", description="One row per network and seed, or one per trial."
    )
    output: str | None = Field(
        None, description="The file; - is standard output. [default: STUDY.FORMAT beside it]"
    )


def run(arguments: list[str]) -> int:
    """Run a subcommand; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: etastar study COMMAND STUDY.toml [OPTIONS]\n")
        for name, (_, purpose, _) in ACTIONS.items():
            print(f"  {name:<8} {purpose}")
        print("\netastar study COMMAND --help lists a command's options.")
        return 0
    if arguments[0] not in ACTIONS:
        raise unknown_name("command", arguments[0], ACTIONS)
    model, purpose, action = ACTIONS[arguments[0]]
    options = parse(
        model,
        arguments[1:],
        prog=f"etastar study {arguments[0]}",
        description=purpose[0].upper() + purpose[1:] + ".",
        positional=("study",),
    )
    return action(options)


def _run(options: RunOptions) -> int:
    study, store = options.opened()
    if options.dry_run:
        return _dry_run(study, store)
    if not options.resume and store.exists() and store.stat().st_size:
        raise ConfigError(
            f"--no-resume: {store} holds results already, and results are never overwritten. Give "
            "--store another name, or move the file away."
        )
    name = options.executor or ("dask" if options.workers or options.scheduler else "in-process")
    made = make_executor(name, options.workers, options.scheduler)
    with made as executor, _Display(study) as display:
        try:
            done = run_study(
                study,
                store,
                executor=executor,
                hours=options.hours,
                retry_failed=options.retry_failed,
                wait_for_store=options.wait,
                on_wait=lambda who: display.line(f"waiting: {store} is being written by {who}"),
                on_progress=display.update,
            )
        except KeyboardInterrupt:
            display.close()
            again = f"The same command goes on from there ({store})."
            print(f"etastar: interrupted: {display.text}. {again}", file=sys.stderr)
            return INTERRUPTED
    return _print_summary(done)


def _print_summary(p: Progress) -> int:
    """Print what a run did; returns 1 if cells were given up."""
    print(
        f"{p.done} of {p.cells} cells done, {p.failed} failed; "
        f"{p.trials:,} trials in {p.seconds:.1f} s. Results: {p.store}"
    )
    for title, error in p.failures.items():
        print(f"failed: {title}: {error}")
    if p.out_of_budget:
        print("The budget is spent; the same command goes on from here.")
    return 1 if p.failures else 0


def _dry_run(study: Study, store: Path) -> int:
    """The cells with what is left of each, and how long all of it will take."""
    import torch

    state = State.of_file(store)
    known = costs(study)
    tasks = plan(study, known, state)
    for cell in study.cells:
        left = [task for task, _ in tasks if task.id in (cell.id, cell.sharpness_id)]
        seeds = f"seeds {cell.seeds.start}–{cell.seeds.stop - 1}"
        print(f"{cell.title}, {seeds}: {'to do' if left else 'done'}")
    if not tasks:
        print(f"{len(study.cells)} cells, all done.")
        return 0
    factor = calibrate(known.values())
    steps = {i: known[c.id].step for c in study.cells for i in (c.id, c.sharpness_id)}
    seconds = sum(expected * factor(steps[task.id]) for task, expected in tasks)
    threads = torch.get_num_threads()
    print(
        f"{len(study.cells)} cells, {len(tasks)} tasks to do: about "
        f"{duration(seconds / threads)} on this machine ({threads} threads), within a factor of 3."
    )
    return 0


def _status(options: StatusOptions) -> int:
    study, path = options.opened()
    check_output(options.json_file)
    state = State.of_file(path)
    done = [cell for cell in study.cells if state.is_done(cell)]
    failed = {c.title: state.error(c) for c in study.cells if state.error(c) and c not in done}
    missing = {
        (i, s) for c in study.cells for i in identities(c) for s in state.missing(i, c.seeds)
    }
    record = {
        "study": str(study.path),
        "store": str(path),
        "cells": len(study.cells),
        "done": len(done),
        "failed": failed,
        "seeds_missing": len(missing),
    }
    if options.json_file:
        return _write_json(record, options.json_file)
    print(f"{study.file.title or study.name}: {len(done)} of {len(study.cells)} cells done")
    print(f"results missing (η* and λ1, by seed): {len(missing)}")
    print(f"store: {path}" + ("" if path.exists() else " (does not exist yet)"))
    for title, error in failed.items():
        print(f"failed: {title}: {error}")
    return 0


def _fit(options: FitOptions) -> int:
    from etastar.cli.fit import fit_records, print_laws

    check_output(options.json_file)
    study, path = options.opened()
    with Store(path) as store:
        cells = cell_table(study, store)
    groups = fit_records(cells, options.response, options.cutoff)
    if options.json_file:
        return _write_json({"study": str(study.path), "groups": groups}, options.json_file)
    print_laws(groups)
    return 0


def _report(options: ReportOptions) -> int:
    from etastar.report import write_report

    study, path = options.opened()
    output = _output(options.output, study.path.with_suffix(".html"))
    if output == "-" or is_stream(Path(output)):
        raise ConfigError(
            f"--output {output}: the page has figures beside it; give the name of a file."
        )
    with Store(path) as store:
        for file in write_report(study, store, Path(output)):
            print(file)
    return 0


def _export(options: ExportOptions) -> int:

    study, path = options.opened()
    output = _output(options.output, study.path.with_suffix(f".{options.format}"))
    with Store(path) as store:
        columns = TABLES[options.table](study, store)
    write_results([(output, partial(FORMATS[options.format], columns))])
    if output != "-":
        print(f"{output}: {len(columns['cell'])} rows")
    return 0


ACTIONS: dict[str, tuple[type[Any], str, Callable[[Any], int]]] = {
    "run": (RunOptions, "compute what the store does not hold yet", _run),
    "status": (StatusOptions, "say what is done, missing and failed", _status),
    "fit": (FitOptions, "fit the laws and compare their forms", _fit),
    "report": (ReportOptions, "write the page and its figures", _report),
    "export": (ExportOptions, "write the results as CSV or Parquet", _export),
}


def _output(given: str | None, default: Path) -> str:
    """The name of the file to write, once it is known that it can be written."""
    name = str(default) if given is None else given
    check_output(name)
    return name


def _write_json(record: dict[str, Any], file: str) -> int:
    write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", file)
    return 0


def duration(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


class _Display:
    """A live bar on a terminal; elsewhere a line per finished cell, at most one every 5 seconds."""

    QUIET = 5.0

    def __init__(self, study: Study) -> None:
        self.text = "nothing had ended"
        self._cells = len(study.cells)
        self._bar: Any = None
        self._printed = 0.0

    def __enter__(self) -> _Display:
        self._bar = progress_bar("cells", self._cells, "reading data")
        return self

    def update(self, now: Progress) -> None:
        """Show how far the study is."""
        rate = now.trials / now.seconds if now.seconds else 0.0
        left = "" if now.seconds_left is None else f", {duration(now.seconds_left)} left"
        self.text = f"{now.done} of {now.cells} cells done, {now.trials:,} trials"
        tail = f"{now.trials:,} trials, {rate:.1f}/s{left}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=now.done, description=tail)
        if not now.latest:
            return
        wrong = now.latest.startswith(("attempt", "given up"))
        if wrong or (not self._bar and time.monotonic() - self._printed > self.QUIET):
            self._printed = time.monotonic()
            self.line(f"[{now.done}/{now.cells}] {now.latest}; {tail}")

    def line(self, text: str) -> None:
        """A line above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *exc: object) -> None:
        self.close()
