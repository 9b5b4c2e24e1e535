"""Tables and figure of docs/theory.md, from what the other theory_*.py have measured.

python benchmarks/theory_table.py --docs docs/theory.md --figure docs/images/theory-lambda1.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
KEYS = ("width", "depth")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    rows = json.loads((RESULTS / "theory_prediction.json").read_text("utf-8"))
    rest = json.loads((RESULTS / "theory_rest.json").read_text("utf-8"))
    tables = {
        "prediction": prediction_table([r for r in rows if r["loss"] == "mse"]),
        "softmax": softmax_table(rows),
        "bounds": bounds_table(chosen(rows, "mse")),
        "bounds-softmax": bounds_table(chosen(rows, "cross-entropy")),
        "fits": fits_table(chosen(rows, "mse")),
        "rest": rest_table(rest),
    }
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
        if args.docs:
            text = args.docs.read_text("utf-8")
            begin, end = (
                f"<!-- {name}: written by benchmarks/theory_table.py -->",
                f"<!-- /{name} -->",
            )
            head, after = text.split(begin)
            text = f"{head}{begin}\n\n{table}\n\n{end}{after.split(end)[1]}"
            args.docs.write_text(text, encoding="utf-8")
    if args.figure:
        draw(rows, args.figure)


def chosen(rows: list[dict[str, Any]], loss: str) -> list[dict[str, Any]]:
    """Digits, κ = 0.1, v = 1, width at least 16 times the depth."""
    found = [
        r
        for r in rows
        if (r["data"], r["kappa"], r["v"], r["loss"]) == ("digits", 0.1, 1.0, loss)
        and r["width"] >= 16 * r["depth"]
    ]
    return sorted(found, key=lambda r: (r["depth"], r["width"]))


def markdown(head: list[str], body: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def inside(row: dict[str, Any]) -> bool:
    """The goal: within 10 % and two standard errors of the median."""
    return abs(row["ratio"] - 1) <= 0.1 + 2 * row["error"]


def prediction_table(rows: list[dict[str, Any]]) -> str:
    """Predicted ÷ measured median by (κ, v); bold where outside the goal."""
    columns = sorted({(r["kappa"], r["v"]) for r in rows})
    body = []
    for data in dict.fromkeys(r["data"] for r in rows):
        for n, depth in sorted({(r["width"], r["depth"]) for r in rows if r["data"] == data}):
            found = {
                (r["kappa"], r["v"]): r
                for r in rows
                if (r["data"], r["width"], r["depth"]) == (data, n, depth)
            }
            cells = [
                f"{r['ratio']:.2f}" if inside(r) else f"**{r['ratio']:.2f}**"
                for r in (found[c] for c in columns)
            ]
            errors = [r["error"] for r in found.values()]
            body.append([data, str(n), str(depth), *cells, f"{max(errors):.3f}"])
    head = ["data", "n", "L", *(f"{k:g}, {v:g}" for k, v in columns), "greatest s.e."]
    return markdown(head, body)


def softmax_table(rows: list[dict[str, Any]]) -> str:
    """Predicted ÷ measured median for cross-entropy."""
    found = [r for r in rows if r["loss"] != "mse"]
    by_data: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for r in found:
        by_data.setdefault(r["data"], {})[r["width"], r["depth"]] = r
    cells = sorted({c for known in by_data.values() for c in known})
    body = []
    for data, known in by_data.items():
        line = [data]
        for cell in cells:
            r = known.get(cell)
            text = f"{r['ratio']:.2f} ± {r['error']:.2f}" if r else "–"
            line.append(text if r is None or inside(r) else f"**{text}**")
        body.append(line)
    return markdown(["data", *(f"{n}×{depth}" for n, depth in cells)], body)


def bounds_table(rows: list[dict[str, Any]]) -> str:
    """Measured mean ÷ bound, for every entry of the theorem."""
    names = [(e["name"], e["side"], e["label"]) for e in rows[0]["theorem"]]
    body = []
    for index, (name, side, label) in enumerate(names):
        pairs = [(r["mean"], r["theorem"][index]["value"]) for r in rows]
        ratios = [f"{mean / bound:.3g}" if bound else "∞" for mean, bound in pairs]
        body.append([side, f"`{name}`", label, *ratios])
    head = ["side", "bound", "label", *(f"{r['width']}×{r['depth']}" for r in rows)]
    measured = ["", "measured mean ÷ nL", "", *(f"{per_nl(r):.3g}" for r in rows)]
    return markdown(head, [*body, measured])


def per_nl(row: dict[str, Any]) -> float:
    return float(row["mean"] / (row["width"] * row["depth"]))


def fits_table(rows: list[dict[str, Any]]) -> str:
    """Least squares of log λ1 on log(nL), and on log n and log L."""
    n, depth = (np.log([r[k] for r in rows]) for k in KEYS)
    named = {"measured median": [r["median"] for r in rows]}
    named["predicted median"] = [r["ratio"] * r["median"] for r in rows]
    for index, e in enumerate(rows[0]["theorem"]):
        if e["name"] in ("layers", "kernel", "blocks") and (e["name"], e["side"]) != (
            "kernel",
            "lower",
        ):
            named[f"{e['side']} bound `{e['name']}`"] = [r["theorem"][index]["value"] for r in rows]
    body = []
    for label, values in named.items():
        joint, errors, r2 = fit(np.log(values), (n + depth)[:, None])
        apart, apart_errors, _ = fit(np.log(values), np.stack([n, depth], 1))
        numbers = [(joint[0], errors[0]), *zip(apart, apart_errors, strict=True)]
        shown = [f"{value:.2f} ± {error:.2f}" for value, error in numbers]
        body.append([label, shown[0], f"{r2:.3f}", *shown[1:]])
    return markdown(["quantity", "exponent of n·L", "R²", "of n", "of L"], body)


def fit(y: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Slopes, their standard errors, and R² of least squares with an intercept."""
    design = np.column_stack([columns, np.ones(len(y))])
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ coefficients
    variance = residual @ residual / (len(y) - design.shape[1])
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * variance)
    return coefficients[:-1], errors[:-1], 1 - residual @ residual / ((y - y.mean()) ** 2).sum()


def rest_table(rows: list[list[Any]]) -> str:
    """Medians of ‖R‖/‖G‖ and λ1(H)/λ1(G), and the fitted exponents."""
    depths = sorted({depth for _, _, depth, _ in rows})
    found = {(kappa, n, depth): np.median(values, axis=0) for kappa, n, depth, values in rows}
    body = []
    for kappa, n in sorted({key[:2] for key in found}):
        cells = [found.get((kappa, n, depth)) for depth in depths]
        shown = ["–" if c is None else f"{c[0]:.3f} ({c[1]:.3f})" for c in cells]
        body.append([f"{kappa:g}", str(n), *shown])
    table = markdown(["κ", "n", *(f"L = {depth}" for depth in depths)], body) + "\n"
    for kappa in sorted({key[0] for key in found}):
        mine = {key[1:]: c for key, c in found.items() if key[0] == kappa}
        slopes, errors, r2 = fit(np.log([c[0] for c in mine.values()]), np.log(list(mine)))
        units = [c[0] / (depth / n) ** 0.5 for (n, depth), c in mine.items()]
        table += (
            f"\n- κ = {kappa:g}: ‖R‖/‖G‖ ∝ n^({slopes[0]:.2f} ± {errors[0]:.2f}) · "
            f"L^({slopes[1]:.2f} ± {errors[1]:.2f}), R² = {r2:.2f}; {min(units):.2f} to "
            f"{max(units):.2f} times √(L/n)"
        )
    return table


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """λ1/(n·L) against n·L, between its bounds, by depth; both losses on a linear axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.2), constrained_layout=True)
    titles = ("MSE", "Cross-entropy", "Cross-entropy, logarithmic axis")
    losses = ("mse", "cross-entropy", "cross-entropy")
    for panel, loss, title in zip(panels, losses, titles, strict=True):
        cells = chosen(rows, loss)
        depths = sorted({r["depth"] for r in cells})
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(depths)))
        for depth, colour in zip(depths, colours, strict=True):
            of_depth(panel, [r for r in cells if r["depth"] == depth], depth, colour)
        panel.set(xscale="log", xlabel="depth × width  n·L", title=title)
        panel.set_ylim(bottom=0)
    panels[2].set(yscale="log", ylim=(1e-3, 2))
    panels[0].set_ylabel("E λ1(G) / (n·L)")
    handles, labels = panels[0].get_legend_handles_labels()
    for style, marker, text in (
        ("--", "v", "proved, above"),
        ("--", "^", "proved, below"),
        (":", "", "depth bound as n → ∞ (L ≥ 2)"),
    ):
        handles += panels[0].plot(
            [], [], style, marker=marker, color="0.35", ms=4.5, mfc="white", lw=0.9
        )
        labels.append(text)
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=180)
    plt.close(figure)


def of_depth(panel: Any, row: list[dict[str, Any]], depth: int, colour: Any) -> None:
    """One depth in one panel: measured means, the best proved bounds, the limit's depth bound."""
    size = np.array([r["width"] * depth for r in row])
    for side, best, marker in (("lower", max, "^"), ("upper", min, "v")):
        proved = [
            best(e["per_nl"] for e in r["theorem"] if (e["side"], e["label"]) == (side, "proved"))
            for r in row
        ]
        style = {"marker": marker, "ms": 4.5, "mfc": "white", "lw": 0.9, "ls": "--"}
        panel.plot(size, proved, color=colour, zorder=2, **style)
    limit = [next(e for e in r["theorem"] if e["name"] == "depth")["per_nl"] for r in row]
    if any(limit):
        panel.plot(size, limit, ":", color=colour, lw=1.4, zorder=1)
    means = np.array([per_nl(r) for r in row])
    errors = [2 * r["mean_error"] / (r["width"] * depth) for r in row]
    style = {"fmt": "o-", "ms": 5, "lw": 1.4, "capsize": 2, "zorder": 3}
    panel.errorbar(size, means, errors, color=colour, label=f"L = {depth}", **style)


if __name__ == "__main__":
    main()
