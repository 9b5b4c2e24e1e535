"""λ1 at initialisation: what theory says beforehand, and what drawn networks have.

    python benchmarks/theory_table.py --data-dir DIR --json benchmarks/results/theory_table.json \
        --docs docs/theory.md --figure docs/images/theory-lambda1.png

For every cell (width, depth, κ, classes, loss): λ1 of the preconditioned Gauss-Newton matrix of 64
networks on 500 MNIST samples (float32, Lanczos at relative residual 1e-2, whose error in λ1 is of
the order of its square), and `sharpness_bounds` of the same inputs, which sees no network. Seeds
differ from cell to cell, so that the cells' errors are independent. For the rest term R = H − G:
largest |eigenvalue| of R and of G by ARPACK at tolerance 1e-2, on products in float32, MSE.

`--from FILE` skips the measurements and writes tables and figure from a former run; with
`--theory` what theory says is computed anew beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from etastar.curvature import stack_sharpness
from etastar.curvature.stack_products import make_products
from etastar.data import load
from etastar.problem.networks import MLP
from etastar.theory import sharpness_bounds
from etastar.theory.fluctuations import fluctuations_of

FIRST = [(n, depth) for n in (64, 128, 256, 512) for depth in (1, 2, 4, 8) if n >= 16 * depth]
CELLS = (
    [(n, depth, 0.1, 10, "mse") for n, depth in [*FIRST, (256, 16)]]
    + [(n, d, k, 10, "mse") for k in (0.0, 0.3, 1.0) for n, d in [(64, 1), (64, 4), (256, 4)]]
    + [(16, 1, 1.0, 10, "mse"), (64, 2, 1.0, 10, "mse"), (256, 8, 1.0, 10, "mse")]
    + [(n, depth, 0.1, 10, "mse") for n, depth in [(32, 4), (64, 8), (128, 16)]]
    + [(128, 4, 0.1, classes, "mse") for classes in (1, 2, 40)]
    + [(n, d, 0.1, 10, "cross-entropy") for n, d in [(64, 1), (64, 4), (128, 4), (256, 8)]]
    + [(128, 4, 1.0, 10, "cross-entropy"), (128, 4, 0.1, 2, "cross-entropy")]
)
REST = [
    (n, depth, kappa)
    for kappa in (1.0, 0.0)
    for n in (32, 64, 128, 256, 512)
    for depth in (1, 2, 4, 8)
    if n >= 16 * depth and depth > (kappa == 0)  # R is exactly 0 for κ = 0, L = 1
]
REST_DRAWS, REST_SAMPLES = 5, 150


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    found = json.loads(args.source.read_text("utf-8")) if args.source else measure(args)
    if args.source and args.theory:
        renew_theory(found, args)
    if args.rest or not args.source:
        found["rest"] = measure_rests(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    tables = {
        "mse": bounds_table([c for c in found["cells"] if c["loss"] == "mse"]),
        "cross-entropy": bounds_table([c for c in found["cells"] if c["loss"] != "mse"]),
        "fits": fits_table(found["cells"]),
        "rest": rest_table(found["rest"]),
    }
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    if args.docs:
        write_tables(args.docs, tables)
    if args.figure:
        draw(found["cells"], args.figure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All cells."""
    started = time.perf_counter()
    x = inputs(args)
    cells = []
    for index, cell in enumerate(CELLS):
        cells.append(measure_cell(*cell, x, args.draws, first=1000 * (index + 1)))
        show(cells[-1])
    return {
        "samples": len(x),
        "draws": args.draws,
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(time.perf_counter() - started),
        "cells": cells,
    }


def inputs(args: argparse.Namespace) -> torch.Tensor:
    """The samples, `[m, d]`."""
    return load("mnist", data_dir=args.data_dir, train_size=args.samples).x_train.flatten(1)


def renew_theory(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Replace the bounds and predictions of a former run, whose measurements stay."""
    x = inputs(args)
    for cell in found["cells"]:
        net = MLP(width=cell["width"], depth=cell["depth"], input_lr_ratio=cell["kappa"])
        started = time.perf_counter()
        cell["bounds"] = theory(net, x, cell["classes"], cell["loss"])
        cell["seconds"]["theory"] = round(time.perf_counter() - started, 2)
        show(cell)


def theory(net: MLP, x: torch.Tensor, classes: int, loss: str) -> dict[str, Any]:
    return asdict(sharpness_bounds(net, x, classes, loss=loss, kind="gauss-newton"))


def measure_rests(args: argparse.Namespace) -> list[dict[str, Any]]:
    x = inputs(args)[:REST_SAMPLES]
    return [measure_rest(n, depth, kappa, x) for n, depth, kappa in REST]


def measure_cell(
    n: int,
    depth: int,
    kappa: float,
    classes: int,
    loss: str,
    x: torch.Tensor,
    draws: int,
    first: int,
) -> dict[str, Any]:
    """Measured λ1(G) of a cell, and what theory says."""
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa)
    started = time.perf_counter()
    found = stack_sharpness(
        net,
        net.init(range(first, first + draws), x.shape[1], classes),
        x,
        torch.arange(len(x)) % classes,  # G of either loss does not see the labels
        loss=loss,
        kind="gauss-newton",
        lr_ratios=net.lr_ratios(),
        tol=1e-2,
    )
    assert all(found.converged)
    measured = time.perf_counter()
    bounds = theory(net, x, classes, loss)
    seconds = time.perf_counter() - measured
    values = np.array(found.values)
    part = fluctuations_of(net, x[::2].double().numpy(), 0)
    return {
        "width": n,
        "depth": depth,
        "kappa": kappa,
        "classes": classes,
        "loss": loss,
        "first_seed": first,
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "log_sd": float(np.log(values).std(ddof=1)),
        "median_error": median_error(values),
        "input_share": float(part.shares[0]),
        "bounds": bounds,
        "seconds": {"measured": round(measured - started, 2), "theory": round(seconds, 2)},
    }


def median_error(values: np.ndarray) -> float:
    """Relative standard error of the median, by bootstrap over 2000 resamples."""
    rng = np.random.default_rng(0)
    resampled = rng.choice(values, size=(2000, len(values)))
    return float(np.log(np.median(resampled, axis=1)).std())


def show(cell: dict[str, Any]) -> None:
    ratio = cell["bounds"]["kernel_prediction"] / cell["median"]
    verdict = "within" if abs(ratio - 1) <= 0.1 + 2 * cell["median_error"] else "OUTSIDE"
    key = [cell[k] for k in ("width", "depth", "kappa", "classes", "loss")]
    print(*key, f"prediction/median {ratio:.3f} ± {cell['median_error']:.3f}", verdict, flush=True)


def measure_rest(n: int, depth: int, kappa: float, x: torch.Tensor) -> dict[str, Any]:
    """‖R‖, ‖G‖ and λ1(H)/λ1(G) of a few networks, MSE on labels unrelated to the inputs."""
    net = MLP(width=n, depth=depth, input_lr_ratio=kappa)
    ratios = zip(net.lr_ratios(), net.init([0], x.shape[1], 10), strict=True)
    roots = np.concatenate([np.full(p[0].numel(), ratio**0.5) for ratio, p in ratios])
    labels = torch.arange(len(x)) % 10
    rest, head = [], []
    for seed in range(REST_DRAWS):
        params = net.init([seed], x.shape[1], 10)
        products = [
            make_products(net, params, x, labels, "mse", kind)
            for kind in ("hessian", "gauss-newton")
        ]
        size = sum(p[0].numel() for p in params)

        def times(
            vector: np.ndarray, weights: tuple[float, float], products: Any = products
        ) -> Any:
            v = torch.as_tensor((roots * vector.ravel())[None], dtype=torch.float32)
            pairs = zip(weights, products, strict=True)
            return roots * sum(w * p(v)[0].double().numpy() for w, p in pairs if w)

        def largest(weights: tuple[float, float], which: str, size: int = size) -> float:
            operator = LinearOperator((size, size), matvec=lambda v: times(v, weights))
            start = np.random.default_rng(0).normal(size=size)
            value = eigsh(operator, 1, which=which, v0=start, tol=1e-2, return_eigenvectors=False)
            return abs(float(value[0]))

        g = largest((0, 1), "LA")
        rest.append(largest((1, -1), "LM") / g)
        head.append(largest((1, 0), "LA") / g)
    print("rest", n, depth, kappa, f"{np.median(rest):.3f}", f"{np.median(head):.3f}", flush=True)
    return {"width": n, "depth": depth, "kappa": kappa, "rest": rest, "hessian": head}


def bounds_table(cells: list[dict[str, Any]]) -> str:
    """Ratios to the measurement: of predictions to its median, of bounds to its mean."""
    lines = [
        "| n | L | κ | C | n/L | λ1(G), median | log-sd | kernel | **predicted** | s.e. | goal "
        "| lower, proved | lower | upper | upper, proved | trace |",
        "|" + "---|" * 16,
    ]
    for c in cells:
        b = c["bounds"]
        ratio = b["kernel_prediction"] / c["median"]
        goal = "yes" if abs(ratio - 1) <= 0.1 + 2 * c["median_error"] else "**no**"
        cols = [
            *(f"{c[k]:g}" for k in ("width", "depth", "kappa", "classes")),
            f"{c['width'] / c['depth']:g}",
            f"{c['median']:.4g}",
            f"{c['log_sd']:.2f}",
            f"{b['kernel_infinite_width'] / c['median']:.2f}",
            f"**{ratio:.2f}**",
            f"{c['median_error']:.2f}",
            goal,
            *(
                "–" if b[k] is None else f"{b[k] / c['mean']:.3g}"
                for k in ("lower_proved", "lower", "upper", "upper_proved", "upper_trace")
            ),
        ]
        lines.append("| " + " | ".join(cols) + " |")
    return "\n".join(lines)


def region(cells: list[dict[str, Any]], kappa: float = 0.1) -> list[dict[str, Any]]:
    """MSE, ten classes, width at least 16 times the depth."""
    return [
        c
        for c in cells
        if c["loss"] == "mse"
        and c["classes"] == 10
        and c["kappa"] == kappa
        and c["width"] >= 16 * c["depth"]
    ]


def fits_table(cells: list[dict[str, Any]]) -> str:
    """Least squares of log λ1, and of what theory says, on log(nL) and on log n, log L."""
    chosen = region(cells)
    n = np.log([c["width"] for c in chosen])
    depth = np.log([c["depth"] for c in chosen])
    rows = {"λ1(G), measured median": [c["median"] for c in chosen]}
    for label, key in (
        ("predicted median", "kernel_prediction"),
        ("infinite-width kernel", "kernel_infinite_width"),
        ("lower bound, constant vector", "lower"),
        ("lower bound, proved", "lower_proved"),
        ("upper estimate", "upper"),
        ("upper bound, proved", "upper_proved"),
        ("upper bound, trace", "upper_trace"),
    ):
        rows[label] = [c["bounds"][key] for c in chosen]
    lines = [
        "| quantity | exponent of n·L | R² | exponent of n | exponent of L | R² |",
        "|---|---|---|---|---|---|",
    ]
    for label, values in rows.items():
        joint, errors, joint_r2 = fit(np.log(values), (n + depth)[:, None])
        apart, apart_errors, apart_r2 = fit(np.log(values), np.stack([n, depth], 1))
        lines.append(
            f"| {label} | {joint[0]:.2f} ± {errors[0]:.2f} | {joint_r2:.3f} "
            f"| {apart[0]:.2f} ± {apart_errors[0]:.2f} | {apart[1]:.2f} ± {apart_errors[1]:.2f} "
            f"| {apart_r2:.3f} |"
        )
    return "\n".join(lines)


def fit(y: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Slopes, their standard errors, and R² of least squares with an intercept."""
    design = np.column_stack([columns, np.ones(len(y))])
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ coefficients
    variance = residual @ residual / (len(y) - design.shape[1])
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)
    return coefficients[:-1], errors[:-1], 1 - residual @ residual / ((y - y.mean()) ** 2).sum()


def rest_table(cells: list[dict[str, Any]]) -> str:
    """‖R‖/‖G‖ and λ1(H)/λ1(G), medians, by width and depth, with the fitted exponents."""
    depths = sorted({c["depth"] for c in cells})
    found = {(c["kappa"], c["width"], c["depth"]): c for c in cells}
    lines = [
        "| κ | n | " + " | ".join(f"L = {d}" for d in depths) + " |",
        "|---" * (2 + len(depths)) + "|",
    ]
    for kappa, n in sorted({key[:2] for key in found}):
        row = [found.get((kappa, n, depth)) for depth in depths]
        cols = [
            f"{np.median(c['rest']):.3f} ({np.median(c['hessian']):.3f})" if c else "–" for c in row
        ]
        lines.append(f"| {kappa:g} | {n} | " + " | ".join(cols) + " |")
    lines.append("")
    for kappa in sorted({c["kappa"] for c in cells}):
        chosen = [c for c in cells if c["kappa"] == kappa]
        y = np.array([math.log(np.median(c["rest"])) for c in chosen])
        columns = np.log([[c["width"], c["depth"]] for c in chosen])
        slopes, errors, r2 = fit(y, columns)
        lines.append(
            f"- κ = {kappa:g}: ‖R‖/‖G‖ ∝ n^({slopes[0]:.2f} ± {errors[0]:.2f}) · "
            f"L^({slopes[1]:.2f} ± {errors[1]:.2f}), R² = {r2:.2f}"
        )
    return "\n".join(lines)


def write_tables(path: Path, tables: dict[str, str]) -> None:
    """Put each table between its two markers."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by benchmarks/theory_table.py -->", f"<!-- /{name} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    path.write_text(text, encoding="utf-8")


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """λ1 against n·L with both bounds, the estimate and the predictions, for κ = 0.1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = region(cells)
    depths = sorted({c["depth"] for c in chosen})
    figure, panels = plt.subplots(
        1, 2, figsize=(10.5, 4.6), width_ratios=[1.35, 1], constrained_layout=True
    )
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(depths)))
    left, right = panels
    lines = {
        "upper_trace": ("upper, trace (proved)", ":", "0.55"),
        "upper_proved": ("upper, blocks (proved)", "-", "0.35"),
        "upper": ("upper estimate (asymptotic)", "--", "tab:red"),
        "lower": ("lower, constant vector (asymptotic)", "--", "tab:blue"),
        "lower_proved": ("lower (proved)", "-", "tab:blue"),
    }
    for depth, colour in zip(depths, colours, strict=True):
        row = sorted((c for c in chosen if c["depth"] == depth), key=lambda c: c["width"])
        size = [c["width"] * depth for c in row]
        for key, (label, style, ink) in lines.items():
            values = [c["bounds"][key] for c in row]
            label = label if depth == depths[0] else None
            marker = {"marker": "_", "ms": 6} if len(row) == 1 else {}
            left.plot(size, values, style, color=ink, lw=1.1, alpha=0.8, label=label, **marker)
        predicted = [c["bounds"]["kernel_prediction"] for c in row]
        left.plot(size, predicted, "-", color=colour, lw=1.6)
        medians = [c["median"] for c in row]
        errors = [2 * c["median_error"] * c["median"] for c in row]
        style = {"fmt": "o", "color": colour, "ms": 5.5, "mec": "white", "mew": 0.6, "capsize": 2}
        left.errorbar(size, medians, errors, label=f"measured, L = {depth}", zorder=5, **style)
        ratios = np.array([[c["bounds"]["kernel_prediction"] / c["median"]] for c in row])
        bare = [c["bounds"]["kernel_infinite_width"] / c["median"] for c in row]
        spread_ = [2 * c["median_error"] for c in row]
        at = np.array([c["width"] / depth for c in row]) * (1 + 0.03 * (depths.index(depth) - 2))
        right.errorbar(at, ratios[:, 0], spread_, label=f"L = {depth}", **style)
        right.plot(at, bare, "x", color=colour, ms=6, mew=1.4)
    left.plot([], [], "-", color="0.2", lw=1.6, label="predicted, same colours")
    left.set(xscale="log", yscale="log", xlabel="depth × width  n·L")
    left.set_ylabel("λ1 of the Gauss–Newton matrix")
    left.set_title("MNIST, MSE, κ = 0.1, 10 classes, n ≥ 16 L", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    right.axhspan(0.9, 1.1, color="0.92", zorder=0)
    right.axhline(1, color="0.5", lw=0.8)
    right.set(xscale="log", xlabel="width / depth  n/L", ylabel="predicted / measured median")
    right.set_title("● with finite-width correction   × kernel alone", fontsize=10)
    ticks = [16, 32, 64, 128, 256, 512]
    right.set_xticks(ticks, [str(t) for t in ticks])
    right.minorticks_off()
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=180)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", default=os.environ.get("ETASTAR_DATA_DIR"))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--from", dest="source", type=Path, help="a former run's JSON")
    parser.add_argument("--theory", action="store_true", help="compute theory anew with --from")
    parser.add_argument("--rest", action="store_true", help="measure the rest term with --from")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
