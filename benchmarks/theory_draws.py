"""λ1 of the Gauss-Newton matrix of many drawn networks, for all κ and v of a size at once.

    python benchmarks/theory_draws.py --data mnist --out FILE.npz [--cells 64x4,128x8]

A network drawn at v = 1 serves every κ and v: its tangent kernel is a weighted sum of the same
three matrices of C·m rows. λ1 comes from `--steps` Lanczos steps in float32 on these, all κ, v and
losses at once: at width 128 three to ten times faster than through the layers. Every width
and depth is written when it is done, and skipped where the file has it: the run may be repeated.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch

from etastar.data import load

CELLS = "16x1,64x1,256x1,32x2,64x2,128x2,64x4,128x4,256x4,128x8,256x8"
KAPPAS, VARIANCES = (0.0, 0.1, 1.0), (0.3, 1.0, 2.0)


def inputs(name: str, samples: int) -> tuple[torch.Tensor, int]:
    """First samples `[m, d]`, and the classes; `normal` has d = 784 and unequal norms."""
    if name == "normal":
        rng = np.random.default_rng(5)
        x = rng.normal(size=(samples, 784)) * rng.uniform(0.5, 1.5, size=(samples, 1))
        return torch.as_tensor(x).float(), 10
    data = load(name)
    return data.x_train[:samples].flatten(1).float(), data.classes


def lambda1(
    x: torch.Tensor,
    n: int,
    depth: int,
    classes: int,
    draws: int,
    seed: int,
    losses: list[str],
    steps: int,
) -> torch.Tensor:
    """λ1(G), `[losses · κ · v, draws]`; networks with biases, trained and initially zero."""
    g = torch.Generator(x.device).manual_seed(seed)
    m, d = x.shape
    normal = lambda *shape: torch.randn(*shape, generator=g, device=x.device)  # noqa: E731
    weights = [normal(draws, k, n) * (2 / k) ** 0.5 for k in [d] + [n] * (depth - 1)]
    out = normal(draws, n, classes) * n**-0.5
    grid = list(itertools.product(losses, KAPPAS, VARIANCES))
    start = normal(len(grid), draws, classes, m) + m**0.5 * normal(len(grid), draws, classes, 1)
    networks = zip(zip(*weights, strict=True), out, start.unbind(1), strict=True)
    return torch.stack([of_network(x, *network, grid, steps) for network in networks], 1)


def of_network(
    x: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    out: torch.Tensor,
    start: torch.Tensor,
    grid: list[tuple[str, float, float]],
    steps: int,
) -> torch.Tensor:
    """λ1(G) of one network at every loss, κ and v, by Lanczos from `start` `[grid, C, m]`."""
    hidden = [x]
    for w in weights:
        hidden.append((hidden[-1] @ w).relu())
    outputs = (hidden[-1] @ out).T  # (C, m)
    products = [h @ h.T + 1 for h in hidden]
    gradient, terms = out.T[:, None] * (hidden[-1] > 0), []
    for layer in reversed(range(len(weights))):
        flat = gradient.flatten(0, 1)
        pairs = (flat @ flat.T).view(*gradient.shape[:2], *gradient.shape[:2])
        terms.append((pairs * products[layer][:, None]).view(len(flat), -1))
        if layer:
            gradient = (flat @ weights[layer].T).view_as(gradient) * (hidden[layer] > 0)
    first, middle = terms[-1], sum(terms[:-1], torch.zeros_like(terms[-1]))
    kappas, vs = (torch.tensor([c[i] for c in grid], device=x.device)[:, None] for i in (1, 2))
    soft = torch.tensor([c[0] != "mse" for c in grid], device=x.device)[:, None, None]
    p = (vs.sqrt()[..., None] * outputs).softmax(1)
    roots = p.sqrt()

    def product(q: torch.Tensor) -> torch.Tensor:  # [g, C·m]
        u = q.view_as(p)
        v = roots * u
        u = torch.where(soft, v - p * v.sum(1, keepdim=True), u)
        flat = u.flatten(1)
        w = (u @ products[-1]) + (vs * (kappas * (flat @ first) + flat @ middle)).view_as(p)
        w = torch.where(soft, roots * (w - (p * w).sum(1, keepdim=True)), w)
        return w.flatten(1) / len(x)

    q = start.flatten(1) / start.flatten(1).norm(dim=1, keepdim=True)
    basis, diagonal, beside = [q], [], []
    for _ in range(steps):
        w = product(q)
        diagonal.append((w * q).sum(1))
        for _ in range(2):
            for b in basis:
                w = w - (w * b).sum(1, keepdim=True) * b
        size = w.norm(dim=1)
        beside.append(size)
        q = w / size.clamp(min=1e-30)[:, None]
        basis.append(q)
    b = torch.stack(beside[:-1], -1).double()
    t = torch.diag_embed(torch.stack(diagonal, -1).double())
    t += torch.diag_embed(b, 1) + torch.diag_embed(b, -1)
    return torch.linalg.eigvalsh(t.cpu())[..., -1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--loss", default="both")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    x, classes = inputs(args.data, args.samples)
    x = x.to(args.device)
    losses = ["mse", "cross-entropy"] if args.loss == "both" else [args.loss]
    done = dict(np.load(args.out)) if args.out.exists() else {}
    for cell in args.cells.split(","):
        n, depth = map(int, cell.split("x"))
        started, parts = time.perf_counter(), []
        if cell in done:
            continue
        for first in range(0, args.draws, args.chunk):
            size = min(args.chunk, args.draws - first)
            seed = 100_000 * n + 1000 * depth + first
            parts.append(lambda1(x, n, depth, classes, size, seed, losses, args.steps))
        done[cell] = torch.cat(parts, 1).reshape(len(losses), 3, 3, -1).numpy()
        np.savez(args.out, **done)
        medians = np.median(done[cell][0, :, 1], axis=-1).round(3).tolist()
        print(
            cell, f"{time.perf_counter() - started:.1f} s, medians at v = 1:", medians, flush=True
        )


if __name__ == "__main__":
    main()
