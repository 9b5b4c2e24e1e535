"""k_p'(ρ; n) beside its limit k_p'(ρ; ∞): the conjecture of docs/theory.md, §4, in numbers.

    python benchmarks/theory_conjecture.py

`p = 2` by the exact formula of Lemma 3, an average over one layer; greater p by the gradients of
drawn networks. Each number is (k_p'(ρ; n) − k_p'(ρ; ∞)) with its standard error, times 10³. After
it the limit of n times the difference, by Lemma 7.
"""

from __future__ import annotations

import math

import numpy as np

RHOS = (0.0, 0.5, 0.9, 0.98, 0.999)


def a0(rho: np.ndarray | float) -> np.ndarray:
    return 1 - np.arccos(np.clip(rho, -1, 1)) / math.pi


def a1(rho: float) -> float:
    return math.sqrt(1 - rho**2) / math.pi + rho * float(a0(rho))


def limit(rho: float, p: int) -> float:
    """`k_p'(ρ; ∞)`: the product of a0 along the correlations."""
    product = 1.0
    for _ in range(p):
        product, rho = product * float(a0(rho)), a1(rho)
    return product


def pair(rng: np.random.Generator, rho: float, draws: int, n: int) -> list[np.ndarray]:
    u, w = rng.normal(size=(2, draws, n))
    return [u, rho * u + math.sqrt(1 - rho**2) * w]


def two(rng: np.random.Generator, rho: float, draws: int, n: int) -> np.ndarray:
    """Draws whose mean is `k_2'(ρ; n) − k_2'(ρ; ∞)`."""
    z = pair(rng, rho, draws, n)
    on = [u > 0 for u in z]
    h = [u * a for u, a in zip(z, on, strict=True)]
    both = 2 / n * (on[0] & on[1]).sum(1)
    norms = [(a**2).sum(1) for a in h]
    alive = (norms[0] > 0) & (norms[1] > 0)
    safe = [np.where(alive, s, 1.0) for s in norms]
    cosine = np.where(alive, (h[0] * h[1]).sum(1) / np.sqrt(safe[0] * safe[1]), 0.0).clip(0, 1)
    lost = (h[0] ** 2 * ~on[1]).sum(1) / safe[0] + (h[1] ** 2 * ~on[0]).sum(1) / safe[1]
    sine = np.sqrt(np.maximum(1 - cosine**2, 1e-24))
    extra = np.where(lost > 0, 2 * cosine * lost / (n * math.pi * sine), 0.0)
    return (a0(cosine) - a0(a1(rho))) * both + extra  # E both = a0(ρ)


def deep(rng: np.random.Generator, rho: float, draws: int, n: int, p: int) -> np.ndarray:
    """Draws whose mean is `k_p'(ρ; n) − k_p'(ρ; ∞)`; the gradient's square, of mean 1, beside."""
    h = pair(rng, rho, draws, n)
    jacobians: list[np.ndarray] = []
    for layer in range(p):
        if layer:
            w = rng.normal(size=(draws, n, n)) * math.sqrt(2 / n)
            h = [np.einsum("rij,rj->ri", w, a) for a in h]
            jacobians = [w @ j for j in jacobians]
        on = [(a > 0).astype(float) for a in h]
        h = [a * b for a, b in zip(h, on, strict=True)]
        eye = np.broadcast_to(np.eye(n), (draws, n, n))
        jacobians = [b[:, :, None] * j for b, j in zip(on, jacobians or [eye, eye], strict=True)]
    products = 2 / n * (jacobians[0] * jacobians[1]).sum((1, 2))
    squares = 1 / n * ((jacobians[0] ** 2).sum((1, 2)) + (jacobians[1] ** 2).sum((1, 2)))
    slope = np.cov(products, squares)[0, 1] / squares.var()
    return products - slope * (squares - 1) - limit(rho, p)


def moments(theta: float) -> tuple[float, float]:
    """`E h²h'²` and `E h³h'` of one unit at an angle, by Gauss-Legendre in the polar angle."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    low, high = theta - math.pi / 2, math.pi / 2
    phi = (high - low) / 2 * nodes + (high + low) / 2
    own, other = np.cos(phi), np.cos(phi - theta)
    weights = 4 / math.pi * (high - low) / 2 * weights
    return float(weights @ (own**2 * other**2)), float(weights @ (own**3 * other))


def excess(theta: float, p: int) -> float:
    """The last two terms of `E_p` in Lemma 7."""
    rho = a1(math.cos(theta))
    value, first, second, at = rho, 1.0, 0.0, rho
    for _ in range(p - 1):  # k̂ and its derivatives: a1 iterated
        slope, bend = float(a0(at)), 1 / (math.pi * math.sqrt(1 - at**2))
        at = value = a1(at)
        first, second = slope * first, bend * first**2 + slope * second
    both, skew = moments(theta)
    a = 4 * both - 8 * rho * skew + rho**2 * (3 + 2 * both)
    return second * a / 2 - (value - rho * first) * (6 - 4 * both) / 4


def own_order(theta: float, p: int, step: float = 1e-3) -> float:
    """`V_p`, by a central difference in the angle."""
    return (excess(theta - step, p) - excess(theta + step, p)) / (2 * step * math.sin(theta))


def first_order(theta: float, p: int) -> float:
    """`E_p'`, after Lemma 7."""
    if p == 1:
        return 0.0
    below = first_order(math.acos(a1(math.cos(theta))), p - 1)
    return own_order(theta, p) + below * float(a0(math.cos(theta)))


def main() -> None:
    rng = np.random.default_rng(0)
    print("p  n ", *(f"ρ = {rho:<12g}" for rho in RHOS))
    for p in (2, 3, 5):
        for n in (2, 3, 8, 32):
            draws = (400_000 if p == 2 else 40_000) // n
            cells = []
            for rho in RHOS:
                parts = [
                    two(rng, rho, draws, n) if p == 2 else deep(rng, rho, draws // 4, n, p)
                    for _ in range(4)
                ]
                values = np.concatenate(parts)
                error = values.std() / math.sqrt(len(values))
                cells.append(f"{1e3 * values.mean():8.2f} ± {1e3 * error:<5.2f}")
            print(p, f"{n:2d}", *cells, flush=True)
    for p in (2, 3, 5):
        found = [first_order(math.acos(rho), p) for rho in RHOS[:-1]]
        print(p, "n → ∞, E_p':", *(f"{value:.3f}" for value in found))
    thetas = np.linspace(0.03, math.pi / 2, 120)
    least = min(own_order(t, p) / t**2 for p in range(2, 65) for t in thetas)
    print(f"least V_p/θ² for p = 2 ... 64 at 120 angles: {least:.3f}")


if __name__ == "__main__":
    main()
