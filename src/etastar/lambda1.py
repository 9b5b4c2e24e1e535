"""λ1 at initialisation, end to end: what `etastar sharpness` runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from etastar.api import checked_settings
from etastar.api import measured as measure_eta_star
from etastar.checking import check_solver, plain
from etastar.curvature.graphs import Kind
from etastar.curvature.initialisations import SeedSharpness, initial_sharpness, over_seeds
from etastar.data import Dataset
from etastar.errors import ConfigError, EtaStarError, quoted
from etastar.machine import device_named, environment, use_threads
from etastar.problem.networks import Network
from etastar.problem.networks.parametrization import scheme_notes
from etastar.progress import Progress
from etastar.result import Result, json_ready, number, span
from etastar.search.base import SeedResult
from etastar.search.search import OF_THE_CURVE
from etastar.settings import Settings
from etastar.theory.kernel import MAX_SAMPLES
from etastar.theory.sharpness_bounds import SharpnessBounds, sharpness_bounds

SCHEMA_VERSION = 1
"""The version of the JSON form; it rises whenever a key changes its meaning or goes away."""

WIDE = 16
"""Width over depth from which the estimates were checked (`docs/theory.md`, §8)."""
MOST_SAMPLES = MAX_SAMPLES
"""Training samples used where neither `samples` nor `train_size` says how many, and samples of the
bounds."""
CLASSICAL_RATES = (2, 4, 12)
"""η·λ1 above which gradient descent diverges on a quadratic (2), in a wide two-layer linear network
(4) and, about, in wide ReLU networks (12): Lewkowycz et al. 2020."""

UNPROVED = {
    **dict.fromkeys(("lower_proved", "upper_proved", "upper_trace")),
    **dict.fromkeys(("lower_label", "upper_label"), "asymptotic"),
}
"""These take the place of bounds where the proofs do not hold."""

SEARCH_OPTIONS = {
    *("optimizer", "momentum", "batch_size", "threshold", "epochs", "max_steps", "eval_every"),
    *("criterion", "resolution", "start_lr", "end_lr", "strategy", *OF_THE_CURVE),
}
"""Options that only a search for η* uses."""

NORMALISATION = {
    "mse": "half the squared distance to the one-hot target, summed over outputs, mean over "
    "samples",
    "cross-entropy": "mean over samples",
}


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """λ1 at initialisation of one architecture.

    Attributes:
        heading: What was measured, in one line.
        lambda1_plain: λ1 of the matrix itself over seeds: the median with its 95 % interval, and
            the mean with its standard error.
        lambda1_preconditioned: The same for `D^½ H D^½`, where D holds the layers' learning-rate
            ratios.
        seeds: The values by seed.
        gauss_newton: `lambda1_plain` and `lambda1_preconditioned` as above for the Gauss-Newton
            matrix, which is measured beside the Hessian, as the Hessian does not see the kinks of
            ReLU. And `bounds`: those on this matrix, some of them proved.
        gauss_newton_seeds: The values of the Gauss-Newton matrix by seed.
        bounds: The bounds on the preconditioned λ1 of the matrix asked for, and its prediction from
            the data; values are None where there is no theory.
        bounds_note: Why there is none.
        reference_rates: 2, 4 and 12 over the median preconditioned λ1.
        eta_star: As in `etastar.Result`; None if it was not asked for.
        eta_star_seeds: Status and bracket of the search for η* by seed; None likewise.
        eta_star_times_lambda1: The median over bracketed seeds of η* times preconditioned λ1.
        conventions: Everything that the numbers depend on.
        cost: Curvature-vector products on all samples, and seconds of wall-clock time.
        environment: Versions, device, threads.
        warnings: What to know before trusting them.
    """

    heading: str
    lambda1_plain: dict[str, float | None]
    lambda1_preconditioned: dict[str, float | None]
    seeds: dict[int, SeedSharpness]
    gauss_newton: dict[str, dict[str, Any]]
    gauss_newton_seeds: dict[int, SeedSharpness]
    bounds: dict[str, Any]
    bounds_note: str | None
    reference_rates: dict[str, float | None]
    eta_star: dict[str, float | None] | None = None
    eta_star_seeds: dict[int, SeedResult] | None = None
    eta_star_times_lambda1: float | None = None
    conventions: dict[str, Any]
    cost: dict[str, Any]
    environment: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def lambda1(self) -> dict[str, float | None]:
        """`lambda1_plain` by its old name."""
        return self.lambda1_plain

    @property
    def preconditioned(self) -> dict[str, float | None]:
        """`lambda1_preconditioned` by its old name."""
        return self.lambda1_preconditioned

    def to_dict(self) -> dict[str, Any]:
        """The result as strict JSON: None, never NaN."""
        record = {"schema_version": SCHEMA_VERSION, **_with_old_names(asdict(self))}
        beside, brackets = record.pop("gauss_newton_seeds"), record.pop("eta_star_seeds")
        for bounds in (record["bounds"], record["gauss_newton"]["bounds"]):
            record["theorem"] = bounds.pop("theorem")
        record["seeds"] = [
            {
                "seed": seed,
                **_with_old_names(row),
                "gauss_newton": _with_old_names(beside[seed]),
                "eta_star": brackets and brackets[seed],
            }
            for seed, row in record["seeds"].items()
        ]
        ready: dict[str, Any] = json_ready(record)
        return ready

    def to_json(self) -> str:
        """The same as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        """Tell what was measured, λ1 over seeds, η* where it was asked for, and the notes."""
        lines = [self.heading]
        plain, ours = self.lambda1_plain, self.lambda1_preconditioned
        for name, of in (("λ1", plain), ("λ1 preconditioned", ours)):
            interval = span(of["ci_low"], of["ci_high"])
            lines.append(f"{name} = {number(of['median'])} (median; interval {interval})")
        if self.eta_star:
            product = number(self.eta_star_times_lambda1)
            lines.append(f"η* = {number(self.eta_star['median'])}; η*·λ1 = {product}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.warnings)])


def measure_sharpness(
    network: Network | None = None,
    dataset: Dataset | str = "digits",
    *,
    kind: Kind = "hessian",
    samples: int | None = None,
    tol: float = 1e-4,
    max_iter: int = 200,
    with_eta_star: bool = False,
    on_progress: Callable[[str, int], None] | None = None,
    **options: Any,
) -> Sharpness:
    """Measure λ1 at initialisation of the networks that `etastar.measure` would train.

    Args:
        network: An architecture; None builds one from the options.
        dataset: A data set, or the name of one.
        kind: `"hessian"` or `"gauss-newton"`.
        samples: λ1 is of the loss over the first so many training samples. None: all that
            `train_size` leaves, and without it at most `MOST_SAMPLES`.
        tol: Relative residual at which the Lanczos iteration stops.
        max_iter: Products before a seed is given up.
        with_eta_star: Measure η* of the same networks too.
        on_progress: Called after every product and every trial with what is being computed, and
            how many seeds are done with it.
        **options: Any field of `etastar.settings.Settings`; those of the search for η* only
            together with `with_eta_star`.

    Returns:
        λ1 by seed and over seeds, beside its bounds, with all that is needed to repeat it.

    Raises:
        ConfigError: An option is unknown, out of range, or contradicts another.
        DataError: A data file is missing or damaged.
    """
    started = time.perf_counter()
    say = on_progress or (lambda stage, done: None)
    tol, max_iter, _ = check_solver(tol, max_iter)
    samples = plain(samples)
    settings = checked_settings(network, dataset, options)
    _check_in_use(options, with_eta_star)
    network = network or settings.network()
    device = device_named(settings.device)
    if isinstance(dataset, str):
        dataset = settings.data(progress=on_progress is not None)
    if with_eta_star:
        settings.recipe(dataset)  # a bad criterion is refused before anything is computed
    available = len(dataset.y_train)
    if samples is not None and not 1 <= samples <= available:
        raise ConfigError(
            f"samples must be from 1 to the {available} training samples of {dataset.name}, got "
            f"{samples}"
        )
    count = min(samples or settings.train_size or MOST_SAMPLES, available)
    settings = settings.bracketing()  # λ1 and η* are of the same initialisations
    seeds = settings.search().seeds

    dtype = getattr(torch, settings.dtype)
    kinds: tuple[Kind, ...] = (kind, "gauss-newton")
    with use_threads(settings.threads) as threads:
        of_kind = {
            matrix: initial_sharpness(
                *(network, dataset, seeds),
                loss=settings.loss,
                kind=matrix,
                samples=count,
                tol=tol,
                max_iter=max_iter,
                dtype=dtype,
                device=device,
                on_progress=lambda matrix, done, n: say(f"λ1 ({matrix}), product {n}", done),
            )
            for matrix in dict.fromkeys(kinds)
        }
    say("bounds", len(seeds))
    fields = network.model_dump()
    size = f"{fields['width']}×{fields['depth']} " if {"width", "depth"} <= fields.keys() else ""
    over = {matrix: _over_seeds(found) for matrix, found in of_kind.items()}
    top = over[kind]["lambda1_preconditioned"]["median"]
    proved, note = _bounds(network, dataset, count, settings.loss)
    scheme = network.parametrization_record(dataset.inputs, dataset.classes)
    notes = (*scheme_notes(scheme), *_warnings(of_kind, max_iter))
    notes += () if note else _beyond(network)
    if options.get("val_size") and not with_eta_star:
        notes += ("`val_size` has no effect: λ1 is of the loss on training samples.",)
    star: dict[str, Any] = {}
    if with_eta_star:

        def tell(now: Progress) -> None:
            say(f"η*: {now.trials} trials, {now.steps:,} steps", now.seeds_done)

        measured = measure_eta_star(network, dataset, settings, on_progress=tell)
        notes += measured.notes
        star = {
            "eta_star": measured.to_dict()["eta_star"],
            "eta_star_seeds": measured.seeds,
            "eta_star_times_lambda1": _eta_star_times_lambda1(measured, of_kind[kind]),
        }
    return Sharpness(
        heading=f"λ1 ({kind}) at initialisation of {size}{network.architecture}, "
        f"κ = {network.input_lr_ratio:g}, {settings.loss}, on the first {count:,} training samples "
        f"of {dataset.name}",
        **over[kind],
        seeds=of_kind[kind],
        gauss_newton=_with_old_names({**over["gauss-newton"], "bounds": proved}),
        gauss_newton_seeds=of_kind["gauss-newton"],
        bounds=proved if kind == "gauss-newton" or note else proved | UNPROVED,
        bounds_note=note,
        reference_rates={f"{c}/λ1": c / top if top else None for c in CLASSICAL_RATES},
        conventions=_with_old_names(_conventions(network, dataset, settings, kind, count, tol))
        | ({"parametrization": scheme} if scheme else {}),
        cost={
            "products": sum(r.products for rows in of_kind.values() for r in rows.values()),
            "seconds": round(time.perf_counter() - started, 3),
        },
        environment=environment(device, dtype, threads),
        warnings=notes,
        **star,
    )


def _check_in_use(options: Mapping[str, Any], with_eta_star: bool) -> None:
    """Raise if an option would have no effect.

    Args:
        options: As they were given.
        with_eta_star: Whether η* is measured too.
    """
    given = {name for name, value in options.items() if value is not None}
    if options.get("from_step") or "from_lr" in given:
        names = quoted(given & {"from_step", "from_lr"})
        raise ConfigError(f"{names}: λ1 is measured at initialisation; leave it out.")
    if unused := set() if with_eta_star else given & SEARCH_OPTIONS:
        raise ConfigError(
            f"{quoted(unused)}: only the search for η* uses this; give `with_eta_star`, "
            "or leave it out."
        )


def _with_old_names(record: dict[str, Any]) -> dict[str, Any]:
    """Add the old names `lambda1` and `preconditioned` to a record."""
    old = {"lambda1": "lambda1_plain", "preconditioned": "lambda1_preconditioned"}
    return record | {name: record[now] for name, now in old.items()}


def _conventions(
    network: Network, data: Dataset, settings: Settings, kind: str, count: int, tol: float
) -> dict[str, Any]:
    """Record everything that the numbers depend on, and what they describe."""
    return {
        "kind": kind,
        "loss": settings.loss,
        "normalisation": NORMALISATION[settings.loss],
        "samples": count,
        "tol": tol,
        "dtype": settings.dtype,
        "network": network.model_dump(),
        "data": {"name": data.name, "classes": data.classes, **data.provenance},
        "lambda1_plain": "of the matrix itself",
        "lambda1_preconditioned": "of D^½ H D^½, D the layers' learning-rate ratios (κ on the "
        "input)",
        "bounds": "lower and upper: on the mean over initialisations of the preconditioned λ1 "
        "of the Gauss-Newton matrix; kernel_prediction: of its median. For the Hessian they "
        "leave out the rest term H − G, and nothing is proved.",
        "bounds_samples": min(count, MOST_SAMPLES),
        "bounds_samples_are": "all samples"
        if count <= MOST_SAMPLES
        else "drawn at random (seed 0): nothing is proved of the loss over all samples",
        "residual": "some eigenvalue lies within the residual of λ1, which is a lower bound",
        "gauss_newton": "the same of the Gauss-Newton matrix",
        "kinks": "the Hessian of a ReLU network by autograd does not see its kinks; the "
        "Gauss-Newton matrix has none",
    }


def _over_seeds(found: Mapping[int, SeedSharpness]) -> dict[str, Any]:
    """Summarise both λ1 over seeds, by name."""
    names = ("lambda1_plain", "lambda1_preconditioned")
    return {name: over_seeds([getattr(row, name) for row in found.values()]) for name in names}


def _bounds(
    network: Network, data: Dataset, count: int, loss: str
) -> tuple[dict[str, Any], str | None]:
    """Compute bounds on λ1 of the Gauss-Newton matrix with labels, or say why there are none."""
    x, some = data.x_train[:count], count > MOST_SAMPLES
    if some:  # drawn: in MNIST two kinds of writers alternate, and every second sample gave a
        # kernel prediction 12 % below that of all
        generator = torch.Generator().manual_seed(0)
        x = x[torch.randperm(count, generator=generator)[:MOST_SAMPLES].sort().values]
    try:
        found = sharpness_bounds(network, x, data.classes, loss=loss, kind="gauss-newton")
    except EtaStarError as error:
        return dict.fromkeys(SharpnessBounds.__dataclass_fields__), str(error)
    bounds = asdict(found)
    if some:  # from the loss over a part of the samples nothing follows for all
        bounds |= UNPROVED
        bounds["theorem"] = [entry | {"label": "asymptotic"} for entry in bounds["theorem"]]
    return bounds, None


def _eta_star_times_lambda1(measured: Result, found: dict[int, SeedSharpness]) -> float | None:
    """The median of η*·λ1 over bracketed seeds; None where η* of the network is."""
    products = [
        math.sqrt(result.lo * result.hi) * row.lambda1_preconditioned
        for seed, result in measured.seeds.items()
        if (row := found[seed]).lambda1_preconditioned and result.lo and result.hi
    ]
    return median(products) if products and measured.eta_star.median is not None else None


def _beyond(network: Network) -> tuple[str, ...]:
    """Say so if the network is too narrow for the estimates."""
    fields = network.model_dump()
    width, depth = fields["width"], fields["depth"]
    if width >= WIDE * depth:
        return ()
    return (
        f"width {width} is below {WIDE} times the depth {depth}: the estimates from the data alone "
        "are for wider networks and may be far off here; what is proved holds at every width.",
    )


def _warnings(of_kind: Mapping[Kind, Mapping[int, SeedSharpness]], max_iter: int) -> list[str]:
    notes = []
    for kind, found in of_kind.items():
        known = {seed: row for seed, row in found.items() if row.lambda1_preconditioned is not None}
        if missed := [seed for seed, row in known.items() if not row.converged]:
            notes.append(
                f"{kind}: seeds {', '.join(map(str, missed))} did not converge within {max_iter} "
                "products: their λ1 is a lower bound only. Raise `max_iter` or `tol`."
            )
        if lost := [seed for seed in found if seed not in known]:
            notes.append(
                f"{kind}: seeds {', '.join(map(str, lost))}: the loss or its curvature is not "
                "finite."
            )
    return notes
