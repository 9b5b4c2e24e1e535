"""`etastar study run|status|fit|report|export`: each a function that parses, calls and prints."""

from __future__ import annotations

import ast
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import getsource, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import BaseModel, Field, create_model

from etastar.cli import INTERRUPTED
from etastar.cli.options import in_study_file, parse
from etastar.cli.output import check_output, write_json, write_results
from etastar.errors import ConfigError, EmptyStoreError, unknown_name
from etastar.progress import ProgressLine
from etastar.scaling.cells import Response
from etastar.study.cell_rows import cell_table, gaps
from etastar.study.cost import calibrate
from etastar.study.executors import EXECUTORS, make_executor
from etastar.study.export import FORMATS, TABLES
from etastar.study.filesystem import is_stream
from etastar.study.plan import State, costs, elsewhere, like_before, plan, require_results
from etastar.study.runner import Progress, check_devices, run_study
from etastar.study.specification import Study
from etastar.study.store import Store
from etastar.validation import OneOf, Options

JsonName: TypeAlias = Annotated[str | None, Field(alias="json")]


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
    prog = f"etastar study {arguments[0]}"
    options = parse(model, arguments[1:], prog=prog, description=purpose, positional=("study",))
    return action(**options.model_dump())


def _opened(study: str, store: str | None) -> tuple[Study, Path]:
    """Return the study, checked, and the path of its store."""
    found = Study.from_file(study)
    return found, Path(store) if store else found.default_store


def _run(
    study: str,
    store: str | None = None,
    *,
    resume: bool = True,
    dry_run: bool = False,
    hours: Annotated[float | None, Field(gt=0.0, allow_inf_nan=False)] = None,
    retry_failed: bool = False,
    wait: bool = True,
    executor: Annotated[str | None, OneOf("executor", EXECUTORS)] = None,
    workers: Annotated[int | None, Field(ge=1)] = None,
    scheduler: str | None = None,
) -> int:
    """Compute what the store does not hold yet.

    Args:
        study: The study file, *.toml.
        store: The store; studies may share one. [default: STUDY.sqlite beside it]
        resume: Go on from what the store holds; --no-resume refuses a used store.
        dry_run: Print the cells and a time estimate; run nothing.
        hours: Start nothing new after so many hours.
        retry_failed: Try again what was given up in earlier runs.
        wait: Wait for another process that is writing the store; else refuse.
        executor: Where cells run. [default: in-process; dask with the options below]
        workers: Dask worker processes to start here.
        scheduler: Address of a Dask scheduler that runs.
    """
    what, path = _opened(study, store)
    if dry_run:
        return _dry_run(what, path)
    if not resume and path.exists() and path.stat().st_size:
        raise ConfigError(
            f"--no-resume: {path} holds results already, and results are never overwritten. Give "
            "--store another name, or move the file away."
        )
    name = executor or ("dask" if workers or scheduler else "in-process")
    bar = ProgressLine("cells", len(what.cells), "nothing had ended", "reading data")
    with make_executor(name, workers, scheduler) as made, bar:
        try:
            done = run_study(
                what,
                path,
                executor=made,
                hours=hours,
                retry_failed=retry_failed,
                wait_for_store=wait,
                on_wait=lambda who: bar.line(f"waiting: {path} is being written by {who}"),
                on_progress=_showing(bar),
            )
        except KeyboardInterrupt:
            bar.__exit__()
            again = f"The same command goes on from there ({path})."
            print(f"etastar: interrupted: {bar.text}. {again}", file=sys.stderr)
            return INTERRUPTED
    return _print_summary(done)


def _print_summary(p: Progress) -> int:
    """Print what a run did; returns 1 if cells were given up."""
    print(
        f"{p.done} of {p.cells} cells done, {p.failed} failed; "
        f"{p.trials:,} trials in {p.seconds:.1f} s. Results: {p.store}"
    )
    for title, error in p.failures.items():
        print(f"failed: {title}: {in_study_file(error)}")
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
        what = "curve" if cell.curve else f"seeds {cell.seeds.start}–{cell.seeds.stop - 1}"
        print(f"{cell.settings.title}, {what}: {'to do' if left else 'done'}")
    if not tasks:
        print(f"{len(study.cells)} cells, all done.")
        return 0
    to_do = f"{len(study.cells)} cells, {len(tasks)} tasks to do"
    if past := like_before(study, known, tasks, store):
        trials, seconds = past
        print(f"{to_do}: about {trials:,.0f} trials and {duration(seconds)}, as what is done took.")
        return 0
    try:
        check_devices(study)
    except ConfigError as error:
        print(f"{to_do}. How long they take cannot be measured here: {in_study_file(str(error))}")
        return 0
    factor = calibrate(known.values())
    steps = {i: known[c.id].step for c in study.cells for i in (c.id, c.sharpness_id)}
    seconds = sum(expected * factor(steps[task.id]) for task, expected in tasks)
    threads = torch.get_num_threads()
    print(
        f"{to_do}: about {duration(seconds / threads)} on this machine ({threads} threads), within "
        "a factor of 3."
    )
    return 0


def _status(study: str, store: str | None = None, *, json_file: JsonName = None) -> int:
    """Say what is done, missing and failed.

    Args:
        study: The study file, *.toml.
        store: The store; studies may share one. [default: STUDY.sqlite beside it]
        json_file: Write it as JSON; - is stdout.
    """
    what, path = _opened(study, store)
    check_output(json_file)
    state = State.of_file(path)
    done = {cell.id for cell in what.cells if state.is_done(cell)}
    failed = {c.settings.title: e for c in what.cells if c.id not in done and (e := state.error(c))}
    missing, _ = state.count(what)
    log_missing, other = False, ""
    with suppress(EmptyStoreError), Store(path) as opened:
        log_missing, other = opened.log_missing, elsewhere(what, opened, state)
    record = {
        "study": str(what.path),
        "store": str(path),
        "cells": len(what.cells),
        "done": len(done),
        "failed": failed,
        "seeds_missing": missing,
        "log_missing": log_missing,
    }
    if json_file:
        write_json(record, json_file)
        return 0
    print(f"{what.file.title or what.name}: {len(done)} of {len(what.cells)} cells done")
    which = "η* and λ1, by seed" if what.file.sharpness else "η*, by seed or curve"
    print(f"results missing ({which}): {missing}")
    print(f"store: {path}" + ("" if path.exists() else " (does not exist yet)") + other)
    if log_missing:
        print(
            f"WARNING: a run of this store was not ended, and {path.name}-wal, which holds what it "
            "computed last, is not beside it: was the store copied alone? Copy both files."
        )
    for title, error in failed.items():
        print(f"failed: {title}: {in_study_file(error)}")
    return 0


def _fit(
    study: str,
    store: str | None = None,
    *,
    response: Response = "eta_star",
    cutoff: Annotated[float | None, Field(ge=0.0, allow_inf_nan=False)] = None,
    json_file: JsonName = None,
) -> int:
    """Fit the laws and compare their forms.

    Args:
        study: The study file, *.toml.
        store: The store; studies may share one. [default: STUDY.sqlite beside it]
        response: What the law is of: η*, λ1, or their product.
        cutoff: Use only cells with n/L at least this.
        json_file: Write it as JSON; - is stdout.
    """
    from etastar.cli.fit import fit_records, print_laws

    check_output(json_file)
    what, path = _opened(study, store)
    with Store(path) as opened:
        cells = cell_table(what, opened)
        missing = gaps(what, opened, cells)
    groups = fit_records(cells, response, cutoff)
    if json_file:
        record = {"study": str(what.path), "missing": missing or None, "groups": groups}
        write_json(record, json_file)
        return 0
    if missing:
        print(f"WARNING: {in_study_file(missing)}")
    print_laws(groups)
    return 0


def _report(study: str, store: str | None = None, *, output: str | None = None) -> int:
    """Write the page and its figures.

    Args:
        study: The study file, *.toml.
        store: The store; studies may share one. [default: STUDY.sqlite beside it]
        output: The page. [default: STUDY.html beside the study]
    """
    from etastar.report import write_report

    what, path = _opened(study, store)
    name = _output(output, what.path.with_suffix(".html"))
    if name == "-" or is_stream(Path(name)):
        raise ConfigError(
            f"--output {name}: the page has figures beside it; give the name of a file."
        )
    with Store(path) as opened:
        require_results(what, opened)
        for file in write_report(what, opened, Path(name)):
            print(file)
    return 0


def _export(
    study: str,
    store: str | None = None,
    *,
    format: Literal["csv", "parquet"] = "csv",
    table: Literal["seeds", "trials"] = "seeds",
    output: str | None = None,
) -> int:
    """Write the results as CSV or Parquet.

    Args:
        study: The study file, *.toml.
        store: The store; studies may share one. [default: STUDY.sqlite beside it]
        format: Format of the file.
        table: One row per network and seed, or one per trial.
        output: The file; - is standard output. [default: STUDY.FORMAT beside it]
    """
    what, path = _opened(study, store)
    name = _output(output, what.path.with_suffix(f".{format}"))
    with Store(path) as opened:
        missing = require_results(what, opened).gaps(what)
        columns = TABLES[table](what, opened)
    write_results([(name, partial(FORMATS[format], columns))])
    if missing:
        print(f"WARNING: {missing}", file=sys.stderr)
    if name != "-":
        print(f"{name}: {len(columns['cell'])} rows")
    return 0


def _command(action: Callable[..., int]) -> tuple[type[BaseModel], str, Callable[..., int]]:
    """Read a command's options and purpose from the parameters and docstring of its function."""
    # from the source, since `python -OO` has no docstrings
    source = ast.walk(ast.parse(getsource(action)))
    function = next(node for node in source if isinstance(node, ast.FunctionDef))
    purpose, _, told = (ast.get_docstring(function) or "").partition("\n")
    texts = dict(re.findall(r"^    (\w+): (.*)", told, re.M))
    fields: dict[str, Any] = {
        name: (kind, Field(signature(action).parameters[name].default, description=texts.get(name)))
        for name, kind in get_type_hints(action, include_extras=True).items()
        if name != "return"
    }
    fields["study"] = (str, Field(description=texts.get("study")))
    return create_model(action.__name__, __base__=Options, **fields), purpose, action


ACTIONS = {a.__name__[1:]: _command(a) for a in (_run, _status, _fit, _report, _export)}
"""By name: a command's options, its purpose, and what it does."""


def _output(given: str | None, default: Path) -> str:
    """Return the name of the file to write, once it is known that it can be written."""
    name = str(default) if given is None else given
    check_output(name)
    return name


def duration(seconds: float) -> str:
    """`3 h 20 min`, `12 min`, `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _showing(bar: ProgressLine) -> Callable[[Progress], None]:
    """Return what shows how far a study is: its bar, else a line, at most every `QUIET` seconds."""
    printed = 0.0

    def update(now: Progress) -> None:
        nonlocal printed
        rate = now.trials / now.seconds if now.seconds else 0.0
        left = "" if now.seconds_left is None else f", {duration(now.seconds_left)} left"
        bar.text = f"{now.done} of {now.cells} cells done, {now.trials:,} trials"
        tail = f"{now.trials:,} trials, {rate:.1f}/s{left}"
        bar.show(tail, now.done)
        wrong = now.latest.startswith(("attempt", "given up"))
        if now.latest and (wrong or (not bar and time.monotonic() - printed > QUIET)):
            printed = time.monotonic()
            bar.line(f"[{now.done}/{now.cells}] {in_study_file(now.latest)}; {tail}")

    return update


QUIET = 5.0
