"""‖R‖/‖G‖ and λ1(H)/λ1(G) of drawn networks, R = H − G: MSE, 150 digits, labels i mod 10.

    python benchmarks/theory_rest.py --json benchmarks/results/theory_rest.json [--device cuda]

24 Lanczos steps with full orthogonalisation for each of R, G and H, in float32. A row of the file
is κ, width, depth and, network by network, ‖R‖/‖G‖, λ1(H)/λ1(G) and the mean of ‖f − y‖².
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch.func import jvp, vjp

from etastar.data import load

SAMPLES, CLASSES, NETWORKS, STEPS = 150, 10, 8, 24
CELLS = [
    (kappa, n, depth)
    for kappa in (0.0, 1.0)
    for n in (32, 64, 128, 256, 512)
    for depth in (1, 2, 4, 8)
    if n >= 16 * depth and depth > (kappa == 0)  # R is exactly 0 for κ = 0, L = 1
]


def ritz(product: Callable[[torch.Tensor], torch.Tensor], size: int, device: str) -> torch.Tensor:
    """Ritz values of a symmetric operator, ascending."""
    q = torch.randn(size, device=device)
    q /= q.norm()
    basis, diagonal, beside = [q], [], []
    for _ in range(STEPS):
        w = product(q)
        diagonal.append(float(w @ q))
        rows = torch.stack(basis)
        for _ in range(2):
            w = w - rows.T @ (rows @ w)
        beside.append(float(w.norm()))
        q = w / w.norm()
        basis.append(q)
    a, b = torch.tensor(diagonal), torch.tensor(beside[:-1])
    return torch.linalg.eigvalsh(torch.diag(a) + torch.diag(b, 1) + torch.diag(b, -1))


def network(x: torch.Tensor, kappa: float, n: int, depth: int) -> list[float]:
    """The three numbers of one network."""
    targets = torch.eye(CLASSES, device=x.device)[torch.arange(len(x)) % CLASSES]
    pairs = [(x.shape[1], n)] + [(n, n)] * (depth - 1) + [(n, CLASSES)]
    shapes = [s for pair in pairs for s in (pair, pair[1:])]
    sizes = [math.prod(s) for s in shapes]
    scale = torch.cat(
        [torch.full((k,), kappa**0.5 if i < 2 else 1.0) for i, k in enumerate(sizes)]
    ).to(x.device)
    parts = []
    for i, shape in enumerate(shapes):
        variance = (2 if i < 2 * depth else 1) / shape[0]
        weights = torch.randn(math.prod(shape)) * variance**0.5
        parts.append(weights if len(shape) > 1 else torch.zeros(shape))
    theta = torch.cat(parts).to(x.device)

    def f(flat: torch.Tensor) -> torch.Tensor:
        tensors = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        h = x
        for i in range(0, 2 * depth, 2):
            h = (h @ tensors[i] + tensors[i + 1]).relu()
        return h @ tensors[-2] + tensors[-1]

    residual = f(theta) - targets

    def along(v: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda flat: jvp(f, (flat,), (scale * v,))[1]

    def rest(v: torch.Tensor) -> torch.Tensor:
        return scale * vjp(along(v), theta)[1](residual)[0] / len(x)

    def gauss_newton(v: torch.Tensor) -> torch.Tensor:
        return scale * vjp(f, theta)[1](along(v)(theta))[0] / len(x)

    size, device = len(scale), str(x.device)
    top = ritz(gauss_newton, size, device)[-1]
    ends = ritz(rest, size, device)
    head = ritz(lambda v: rest(v) + gauss_newton(v), size, device)[-1]
    ratio = max(float(ends[-1]), -float(ends[0])) / float(top)
    found = (ratio, float(head / top), float(residual.square().sum(1).mean()))
    return [round(value, 4) for value in found]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    x = load("digits").x_train[:SAMPLES].flatten(1).float().to(args.device)
    rows = []
    for cell in CELLS:
        rows.append([*cell, [network(x, *cell) for _ in range(NETWORKS)]])
        print(*cell, torch.tensor(rows[-1][-1]).median(0)[0].tolist(), flush=True)
        lines = ",\n".join(map(json.dumps, rows))
        args.json.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
