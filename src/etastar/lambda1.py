"""λ1 at initialisation, end to end: what `etastar sharpness` runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from etastar.errors import ConfigError, EtaStarError

if TYPE_CHECKING:
    from torch import Tensor

    from etastar.curvature.graphs import Kind
    from etastar.curvature.initialisations import SeedSharpness
    from etastar.data import Dataset
    from etastar.problem.networks import Network
    from etastar.result import Measurement
    from etastar.search.base import SeedResult
    from etastar.settings import Settings

SCHEMA_VERSION = 1
"""Of the JSON form; raised whenever a key changes its meaning or goes away."""

WIDE = 16
"""Width over depth from which the estimates were checked (`docs/theory.md`, §8)."""
MOST_SAMPLES = 5000
"""Training samples used where neither `samples` nor `train_size` says how many, and samples of the
bounds: `curvature.kernel.MAX_SAMPLES`, which is not imported since it would bring numpy along."""
CLASSICAL_RATES = (2, 4, 12)
"""η·λ1 above which gradient descent diverges on a quadratic (2), in a wide two-layer linear network
(4) and, about, in wide ReLU networks (12): Lewkowycz et al. 2020."""

UNPROVED = {
    **dict.fromkeys(("lower_proved", "upper_proved", "upper_trace")),
    **dict.fromkeys(("lower_label", "upper_label"), "asymptotic"),
}
"""What becomes of bounds where the proofs do not hold."""

NORMALISATION = {
    "mse": "half the squared distance to the one-hot target, summed over outputs, mean over "
    "samples",
    "cross-entropy": "mean over samples",
}


@dataclass(frozen=True)
class Sharpness:
    """λ1 at initialisation of one architecture.

    Attributes:
        heading: What was measured, in one line.
        lambda1: Of λ1 of the matrix itself: median over seeds with its 95 % interval, and the mean
            with its standard error.
        preconditioned: The same of `D^½ H D^½`, D the layers' learning-rate ratios.
        seeds: By seed.
        gauss_newton: `lambda1` and `preconditioned` as above, of the Gauss-Newton matrix: for the
            Hessian measured beside it, as the Hessian does not see the kinks of ReLU. And `bounds`,
            those on this matrix, some of them proved.
        gauss_newton_seeds: By seed, of the Gauss-Newton matrix.
        bounds: On the preconditioned λ1, and its prediction from the data; values None where
            there is no theory.
        bounds_note: Why there is none.
        reference_rates: 2, 4 and 12 over the median preconditioned λ1.
        eta_star: As in `etastar.Measurement`; None if it was not asked for.
        eta_star_seeds: By seed, status and bracket of the search for η*; None likewise.
        eta_star_times_lambda1: Median over bracketed seeds of η* times preconditioned λ1.
        conventions: Everything that the numbers depend on.
        cost: Curvature-vector products on all samples, and seconds of wall-clock time.
        environment: Versions, device, threads.
        warnings: What to know before trusting them.
    """

    heading: str
    lambda1: dict[str, float | None]
    preconditioned: dict[str, float | None]
    seeds: dict[int, SeedSharpness]
    gauss_newton: dict[str, dict[str, Any]]
    gauss_newton_seeds: dict[int, SeedSharpness]
    bounds: dict[str, Any]
    bounds_note: str | None
    reference_rates: dict[str, float | None]
    eta_star: dict[str, float | None] | None
    eta_star_seeds: dict[int, SeedResult] | None
    eta_star_times_lambda1: float | None
    conventions: dict[str, Any]
    cost: dict[str, Any]
    environment: dict[str, Any]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As strict JSON: None, never NaN."""
        record = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        beside, brackets = record.pop("gauss_newton_seeds"), record.pop("eta_star_seeds")
        for bounds in (record["bounds"], record["gauss_newton"]["bounds"]):
            entries = bounds.pop("theorem")
        record["theorem"] = entries and [
            {key: None if value == math.inf else value for key, value in entry.items()}
            for entry in entries
        ]
        record["seeds"] = [
            {
                "seed": seed,
                **asdict(row),
                "gauss_newton": beside[seed],
                "eta_star": brackets and _bracket(brackets[seed]),
            }
            for seed, row in self.seeds.items()
        ]
        record["warnings"] = list(self.warnings)
        return record


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
    """λ1 at initialisation of the networks that `etastar.measure` would train, with its bounds.

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
        **options: Any field of `etastar.settings.Settings`.

    Returns:
        λ1 by seed and over seeds, beside its bounds, with all that is needed to repeat it.

    Raises:
        ConfigError: An option is unknown, out of range, or contradicts another.
        DataError: A data file is missing or damaged.
    """
    import torch

    from etastar.api import checked_settings
    from etastar.machine import device_named, environment, use_threads

    started = time.perf_counter()
    say = on_progress or (lambda stage, done: None)
    settings = checked_settings(network, dataset, options)
    if settings.from_step:
        raise ConfigError("from_step: λ1 is measured at initialisation; leave it out.")
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
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    dtype = getattr(torch, settings.dtype)
    with use_threads(settings.threads) as threads:
        of_kind = _both_matrices(
            *(network, dataset, seeds, kind, say),
            loss=settings.loss,
            samples=count,
            tol=tol,
            max_iter=max_iter,
            dtype=dtype,
            device=device,
        )
    say("bounds", len(seeds))
    found = of_kind[kind]
    beside = of_kind["gauss-newton"]
    plain, middle = _over_seeds(found, "lambda1"), _over_seeds(found, "preconditioned")
    top = middle["median"]
    proved, note = _bounds(network, dataset, count, settings.loss)
    bounds = proved if kind == "gauss-newton" or note else proved | UNPROVED
    notes = tuple(_warnings(of_kind, max_iter))
    if not note:
        notes += _beyond(network)
    measured = _eta_star(network, dataset, options, say) if with_eta_star else None
    if measured:
        notes += measured.warnings
    return Sharpness(
        heading=f"λ1 ({kind}) at initialisation of {_size(network)}{network.architecture}, "
        f"κ = {network.input_lr_ratio:g}, {settings.loss}, on the first {count:,} training samples "
        f"of {dataset.name}",
        lambda1=plain,
        preconditioned=middle,
        seeds=found,
        gauss_newton={
            "lambda1": _over_seeds(beside, "lambda1"),
            "preconditioned": _over_seeds(beside, "preconditioned"),
            "bounds": proved,
        },
        gauss_newton_seeds=beside,
        bounds=bounds,
        bounds_note=note,
        reference_rates={f"{c}/λ1": c / top if top else None for c in CLASSICAL_RATES},
        eta_star=measured.to_dict()["eta_star"] if measured else None,
        eta_star_seeds=measured.seeds if measured else None,
        eta_star_times_lambda1=_eta_star_times_lambda1(measured, found) if measured else None,
        conventions=_conventions(network, dataset, settings, kind, count, tol),
        cost={
            "products": sum(r.products for rows in of_kind.values() for r in rows.values()),
            "seconds": round(time.perf_counter() - started, 3),
        },
        environment=environment(device, dtype, threads),
        warnings=notes,
    )


def _both_matrices(
    network: Network,
    data: Dataset,
    seeds: range,
    kind: Kind,
    say: Callable[[str, int], None],
    **solver: Any,
) -> dict[str, dict[int, SeedSharpness]]:
    """λ1 by seed: of the matrix asked for, and of the Gauss-Newton matrix beside it."""
    from etastar.curvature.initialisations import initial_sharpness

    def report(matrix: str, done: int, products: int) -> None:
        say(f"λ1 ({matrix}), product {products}", done)

    kinds: tuple[Kind, ...] = (kind, "gauss-newton")
    return {
        matrix: dict(
            initial_sharpness(network, data, seeds, kind=matrix, on_progress=report, **solver)
        )
        for matrix in dict.fromkeys(kinds)
    }


def _conventions(
    network: Network, data: Dataset, settings: Settings, kind: str, count: int, tol: float
) -> dict[str, Any]:
    """Everything that the numbers depend on, and what they are of; `count` samples."""
    return {
        "kind": kind,
        "loss": settings.loss,
        "normalisation": NORMALISATION[settings.loss],
        "samples": count,
        "tol": tol,
        "dtype": settings.dtype,
        "network": network.model_dump(),
        "data": {"name": data.name, "classes": data.classes, **data.provenance},
        "lambda1": "of the matrix itself",
        "preconditioned": "of D^½ H D^½, D the layers' learning-rate ratios (κ on the input)",
        "bounds": "lower and upper: on the mean over initialisations of the preconditioned λ1 "
        "of the Gauss-Newton matrix; kernel_prediction: of its median. For the Hessian they "
        "leave out the rest term H − G, and nothing is proved.",
        "bounds_samples": min(count, MOST_SAMPLES),
        "bounds_samples_are": _bounds_samples(count),
        "residual": "some eigenvalue lies within the residual of λ1, which is a lower bound",
        "gauss_newton": "the same of the Gauss-Newton matrix",
        "kinks": "the Hessian of a ReLU network by autograd does not see its kinks; the "
        "Gauss-Newton matrix has none",
    }


def _over_seeds(found: dict[int, SeedSharpness], name: str) -> dict[str, float | None]:
    """Of a field over seeds: median with its 95 % interval, mean with its standard error."""
    from etastar.curvature.initialisations import median_interval

    values = [getattr(row, name) for row in found.values()]
    summary = dict(zip(("median", "ci_low", "ci_high"), median_interval(values), strict=True))
    known = summary["median"] is not None
    summary["mean"] = fmean(values) if known else None
    spread = stdev(values) / math.sqrt(len(values)) if known and len(values) > 1 else None
    return summary | {"mean_standard_error": spread}


def _size(network: Network) -> str:
    fields = network.model_dump()
    return f"{fields['width']}×{fields['depth']} " if {"width", "depth"} <= fields.keys() else ""


def _bounds(
    network: Network, data: Dataset, count: int, loss: str
) -> tuple[dict[str, Any], str | None]:
    """Bounds on λ1 of the Gauss-Newton matrix and their labels, or why there are none."""
    from etastar.theory.sharpness_bounds import SharpnessBounds, sharpness_bounds

    x = data.x_train[:count]
    if count > MOST_SAMPLES:
        x = x[_drawn(count)]
    try:
        found = sharpness_bounds(network, x, data.classes, loss=loss, kind="gauss-newton")
    except EtaStarError as error:
        return dict.fromkeys(SharpnessBounds.__dataclass_fields__), str(error)
    bounds = asdict(found)
    if count > MOST_SAMPLES:
        bounds |= UNPROVED  # of the loss over a part of the samples nothing follows for all
        bounds["theorem"] = [e | {"label": "asymptotic"} for e in bounds["theorem"]]
    return bounds, None


def _drawn(count: int) -> Tensor:
    """Which of so many samples the bounds and the kernel use, `[MOST_SAMPLES]`, ascending.

    Drawn at random, since data sets have an order: in MNIST two kinds of writers alternate, and
    every second sample gave a kernel prediction 12 % below that of all.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:MOST_SAMPLES].sort().values


def _bounds_samples(count: int) -> str:
    if count <= MOST_SAMPLES:
        return "all samples"
    return "drawn at random (seed 0): nothing is proved of the loss over all samples"


def _eta_star(
    network: Network, data: Dataset, options: dict[str, Any], say: Callable[[str, int], None]
) -> Measurement:
    """η* of the same networks."""
    from etastar.api import NETWORK_OPTIONS, measure

    return measure(
        *(network, data),
        on_progress=lambda now: say(
            f"η*: {now.trials} trials, {now.steps:,} steps", now.seeds_done
        ),
        **{k: v for k, v in options.items() if k not in NETWORK_OPTIONS},
    )


def _eta_star_times_lambda1(measured: Measurement, found: dict[int, SeedSharpness]) -> float | None:
    """The median of η*·λ1 over bracketed seeds; None where η* of the network is."""
    products = [
        math.sqrt(result.lo * result.hi) * row.preconditioned
        for seed, result in measured.seeds.items()
        if (row := found[seed]).preconditioned and result.lo and result.hi
    ]
    return median(products) if products and measured.eta_star.median is not None else None


def _bracket(result: dict[str, Any]) -> dict[str, Any]:
    """A seed's search for η*, as `etastar measure --json` writes it."""
    return {**result, "re_entries": list(result["re_entries"])}


def _beyond(network: Network) -> tuple[str, ...]:
    """A note where the estimates are asked for a network that is too narrow for them."""
    fields = network.model_dump()
    width, depth = fields["width"], fields["depth"]
    if width >= WIDE * depth:
        return ()
    return (
        f"width {width} is below {WIDE} times the depth {depth}: the estimates from the data alone "
        "are for wider networks and may be far off here; what is proved holds at every width.",
    )


def _warnings(of_kind: dict[str, dict[int, SeedSharpness]], max_iter: int) -> list[str]:
    notes = []
    for kind, found in of_kind.items():
        known = {seed: row for seed, row in found.items() if row.preconditioned is not None}
        if missed := [seed for seed, row in known.items() if not row.converged]:
            notes.append(
                f"{kind}: seeds {', '.join(map(str, missed))} did not converge within {max_iter} "
                "products: their λ1 is a lower bound only. Raise --max-iter or --tol."
            )
        if lost := [seed for seed in found if seed not in known]:
            notes.append(
                f"{kind}: seeds {', '.join(map(str, lost))}: the loss or its curvature is not "
                "finite."
            )
    return notes
