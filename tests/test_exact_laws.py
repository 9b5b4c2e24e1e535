"""η* against λ1 where the law between them is exact: `measure` and `sharpness`, end to end.

Training is full-batch and long, and the criterion is that the run has not blown up when the budget
ends: the largest stable rate.
"""

from __future__ import annotations

import math

import pytest
import torch

import etastar
from etastar.curvature import stack_sharpness
from etastar.problem.networks.base import Network
from linear_networks import LinearModel, LinearNetwork

RESOLUTION = 0.03


def one_sample() -> etastar.Dataset:
    """A single input of norm 1 with label 1 of two.

    For validation it and its mirror image with the other label, which a linear network without
    biases gets right where it gets the input right.
    """
    x = torch.tensor([[0.6, 0.8]])
    both, labels = torch.cat([x, -x]), torch.tensor([1, 0])
    return etastar.Dataset.from_tensors(x, torch.tensor([1]), both, labels, classes=2)


def curvature(network: Network, data: etastar.Dataset, seeds: list[int]) -> list[float]:
    """λ1 of D^½ H D^½ at the initialisations that `measure` trains."""
    params = network.init(seeds, data.inputs, data.classes, dtype=torch.float64)
    found = stack_sharpness(
        *(network, params, data.x_train.double(), data.y_train),
        loss="mse",
        lr_ratios=network.lr_ratios(),
        tol=1e-6,
    )
    assert all(found.converged)
    return list(found.values)


def divergence(
    network: Network, data: etastar.Dataset, centre: float, momentum: float, seeds: int
) -> etastar.Result:
    """The bracket between rates that fit the data when the budget ends and those that blow up."""
    return etastar.measure(
        network,
        data,
        loss="mse",
        batch_size="full",
        momentum=momentum,
        threshold=1.0,
        criterion="hold",
        max_steps=400,
        seeds=seeds,
        start_lr=centre / 3,
        end_lr=centre * 3,
        resolution=RESOLUTION,
        threads=1,
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kappa", [1.0, 0.1])
def test_a_quadratic_diverges_above_two_over_lambda(momentum: float, kappa: float) -> None:
    """2(1 + β)/λ1 of D^½ H D^½. The validation points are fitted by every stable run, so that the
    bracket is the edge of stability itself."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(12, 8, generator=g) + 0.3
    labels = torch.arange(12) % 3
    data = etastar.Dataset.from_tensors(x, labels, x[:3], labels[:3])
    network = LinearModel(input_lr_ratio=kappa)
    seeds = 2
    expected = 2 * (1 + momentum) / curvature(network, data, [0])[0]
    found = divergence(network, data, expected, momentum, seeds)
    for result in found.seeds.values():
        assert result.status == "bracketed"
        assert result.lo is not None
        assert result.hi is not None
        # a rate of the grid may lie so little above the edge that 400 steps do not show it
        assert result.lo <= expected * (1 + RESOLUTION)
        assert expected <= result.hi <= expected * (1 + RESOLUTION) ** 2


def test_the_catapult_ends_at_four_over_lambda() -> None:
    """Lewkowycz et al. 2020, §2: the two-layer linear network trains up to 4/λ0, not 2/λ0.

    λ0 = (‖u‖² + ‖v‖²)/n is the kernel on the sample. The law is that of infinite width and one
    output; here n = 2048 with two outputs, whose kernel is a multiple of the identity up to n^−½.
    """
    data, network = one_sample(), LinearNetwork(width=2048)
    seeds = [0, 1]
    params = network.init(seeds, 2, 2, dtype=torch.float64)
    hidden = (data.x_train.double() @ params[0])[:, 0]  # (R, n)
    grams = params[1].transpose(1, 2) @ params[1] / network.width  # (R, C, C)
    eye = torch.eye(2, dtype=torch.float64)
    kernels = grams + hidden.square().mean(1)[:, None, None] * eye
    lambda0 = [float(torch.linalg.eigvalsh(k)[-1]) for k in kernels]
    newton = stack_sharpness(
        *(network, params, data.x_train.double(), data.y_train),
        loss="mse",
        kind="gauss-newton",
        tol=1e-8,
    )
    assert newton.values == pytest.approx(lambda0, rel=1e-6)
    found = divergence(network, data, 4 / lambda0[0], 0.0, len(seeds))
    for seed, result in found.seeds.items():
        assert result.lo is not None
        assert result.hi is not None
        eta = math.sqrt(result.lo * result.hi)
        # 4/λ0 up to O(n^−½) and the resolution: 5 %; 2/λ0 is off by a factor of 2
        assert eta * lambda0[seed] == pytest.approx(4.0, rel=0.05)
