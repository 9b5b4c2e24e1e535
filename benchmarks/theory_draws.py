"""λ1 of the Gauss-Newton matrix of many drawn networks, for all κ and v of a size at once.

    python benchmarks/theory_draws.py --data mnist --out FILE.npz [--cells 64x4,128x8]

A network drawn at v = 1 serves every κ and v: its tangent kernel is a weighted sum of the same
terms. λ1 comes from `STEPS` Lanczos steps in float32, all κ, v and losses in one batch. Every width
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
    first = x @ x.T + 1
    h, hidden, masks, weights = x.expand(draws, m, d), [], [], []
    for fan_in in [d] + [n] * (depth - 1):
        w = normal(draws, fan_in, n) * (2 / fan_in) ** 0.5
        z = h @ w
        h = z.relu()
        hidden.append(h)
        masks.append((z > 0).float())
        weights.append(w)
    out = normal(draws, n, classes) * n**-0.5
    f = h @ out
    grid = list(itertools.product(losses, KAPPAS, VARIANCES))
    kappas, vs = (
        torch.tensor([c[i] for c in grid], device=x.device)[:, None, None, None] for i in (1, 2)
    )
    soft = torch.tensor([c[0] != "mse" for c in grid], device=x.device)[:, None, None, None]
    p = (vs.sqrt() * f).softmax(-1)
    roots = p.sqrt()

    def bend(u: torch.Tensor, forward: bool) -> torch.Tensor:
        if forward:
            v = roots * u
            return torch.where(soft, v - p * v.sum(-1, keepdim=True), u)
        return torch.where(soft, roots * (u - (p * u).sum(-1, keepdim=True)), u)

    def product(u: torch.Tensor) -> torch.Tensor:  # [g, S, m, C]
        u = bend(u, True)
        top = hidden[-1] @ (hidden[-1].transpose(1, 2) @ u) + u.sum(2, keepdim=True)
        gradient, own = (u @ out.transpose(1, 2)) * masks[-1], []
        for layer in reversed(range(1, depth)):
            below = hidden[layer - 1]
            own.append(below @ (below.transpose(1, 2) @ gradient) + gradient.sum(2, keepdim=True))
            gradient = (gradient @ weights[layer].transpose(1, 2)) * masks[layer - 1]
        t = kappas * (first @ gradient) * masks[0]
        for layer in range(1, depth):
            t = (t @ weights[layer] + own.pop()) * masks[layer]
        return bend(top + vs * (t @ out), False) / m

    start = normal(len(grid), draws, m, classes) + m**0.5 * normal(len(grid), draws, 1, classes)
    q = start / start.flatten(2).norm(dim=2)[..., None, None]
    basis, diagonal, beside = [q], [], []
    for _ in range(steps):
        w = product(q)
        diagonal.append((w * q).sum((2, 3)))
        for _ in range(2):
            for b in basis:
                w = w - (w * b).sum((2, 3))[..., None, None] * b
        size = w.flatten(2).norm(dim=2)
        beside.append(size)
        q = w / size.clamp(min=1e-30)[..., None, None]
        basis.append(q)
    a = torch.stack(diagonal, -1).double()
    b = torch.stack(beside[:-1], -1).double()
    t = torch.diag_embed(a) + torch.diag_embed(b, 1) + torch.diag_embed(b, -1)
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
