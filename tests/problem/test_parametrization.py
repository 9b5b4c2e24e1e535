"""Parametrisations: the ratio form against constant multipliers trained with one plain rate."""

from __future__ import annotations

import math

import pytest
import torch

import etastar
from etastar.engines.backprop import make_step
from etastar.errors import ConfigError
from etastar.problem.losses import half_squared_distance
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.theory.sharpness_bounds import sharpness_bounds

INPUTS, CLASSES, SAMPLES, SEED, STEPS = 7, 3, 11, 4, 6
BASE = 128


def multipliers(name: str, width: int, depth: int) -> list[tuple[float, float]]:
    """Constants before weights and biases, layer by layer, from the papers' tables.

    Jacot et al. 2018: 1/√fan_in and 1. Yang & Hu 2021, μP: √s, 1, ..., 1, 1/√s with s the width
    over the base width; biases of a layer as a weight from a constant input of dimension one.
    """
    if name == "ntk":
        return [(1 / math.sqrt(n), 1.0) for n in [INPUTS] + [width] * depth]
    s = width / BASE
    return [(math.sqrt(s),) * 2, *[(1.0, math.sqrt(s))] * (depth - 1), (1 / math.sqrt(s), 1.0)]


def drawn_variances(name: str, width: int, depth: int) -> list[float]:
    """Variances of the trained `w`, before the multiplier."""
    if name == "ntk":
        return [2.0] * depth + [1.0]
    s = width / BASE
    return [2 / (INPUTS * s)] + [2 / width] * (depth - 1) + [1 / width]


@pytest.mark.parametrize("name", ["ntk", "mup"])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("kind", [MLP, LayerNormMLP])
def test_ratios_equal_multipliers_trained_with_one_rate(
    name: str, momentum: float, loss: str, kind: type[MLP]
) -> None:
    width, depth, lr = 24, 3, 0.4 if name == "ntk" else 0.05
    network = kind(width=width, depth=depth, parametrization=name)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS, generator=random, dtype=torch.float64)
    labels = torch.arange(SAMPLES) % CLASSES
    constants = multipliers(name, width, depth)
    generator = torch.Generator().manual_seed(2 * SEED)
    sizes = network.layer_sizes(INPUTS, CLASSES)
    trained = []
    for (fan_in, out), variance in zip(sizes, drawn_variances(name, width, depth), strict=True):
        w = torch.randn(fan_in, out, generator=generator, dtype=torch.float64) * variance**0.5
        trained += [w.requires_grad_(), torch.zeros(out, dtype=torch.float64, requires_grad=True)]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)
    params = network.init([SEED], INPUTS, CLASSES, dtype=torch.float64)
    velocity = [torch.zeros_like(p) for p in params] if momentum else []
    step = make_step(network, loss, momentum)  # type: ignore[arg-type]
    value = torch.nn.functional.cross_entropy if loss == "cross-entropy" else half_squared_distance

    def effective() -> list[torch.Tensor]:
        pairs = zip(trained[::2], trained[1::2], constants, strict=True)
        return [part[None] for w, b, (of_w, of_b) in pairs for part in (of_w * w, of_b * b)]

    rate, batch = torch.tensor([lr], dtype=torch.float64), x[None]
    for _ in range(STEPS):
        optimizer.zero_grad()
        value(network.apply(effective(), x)[0], labels).backward()
        optimizer.step()
        step(params, velocity, rate, batch, labels[None])
    before = network.init([SEED], INPUTS, CLASSES, dtype=torch.float64)
    for p, other, old in zip(params, effective(), before, strict=True):
        assert not torch.equal(p, old)
        torch.testing.assert_close(p, other, rtol=1e-10, atol=1e-13)


def test_mup_at_its_base_width_is_standard() -> None:
    network, plain = MLP(width=BASE, depth=2, parametrization="mup"), MLP(width=BASE, depth=2)
    assert network.ratios(5) == plain.lr_ratios()
    assert network.variances(5) == plain.variances(5)
    for p, other in zip(network.init([1], 5, 3), plain.init([1], 5, 3), strict=True):
        assert torch.equal(p, other)


def test_input_ratio_multiplies_every_parametrisation() -> None:
    for name in ("ntk", "mup"):
        full = MLP(width=8, depth=2, parametrization=name).ratios(5)
        some = MLP(width=8, depth=2, parametrization=name, input_lr_ratio=0.25).ratios(5)
        assert some[:2] == tuple(ratio / 4 for ratio in full[:2])
        assert some[2:] == full[2:]


SMALL = {
    **{"width": 16, "depth": 2, "train_size": 300, "max_steps": 20, "threshold": 0.4},
    **{"batch_size": 32, "threads": 1},
}


@pytest.mark.parametrize("name", ["ntk", "mup"])
def test_a_measurement_tells_ratios_and_variances(name: str) -> None:
    found = etastar.measure(parametrization=name, seeds=1, **SMALL)  # type: ignore[arg-type]
    told = found.to_dict()["settings"]["parametrization"]
    network = MLP(width=16, depth=2, parametrization=name)  # type: ignore[arg-type]
    assert tuple(told["lr_ratios"].values()) == network.ratios(64)
    assert list(told["initial_variances"].values()) == network.variances(64)
    assert told["base_width"] == (BASE if name == "mup" else None)
    assert found.to_dict()["network"]["parametrization"] == name
    assert "learning rates over η" in str(found)
    assert found.status == "bracketed"


def test_lambda1_takes_the_ratios_and_bounds_are_refused() -> None:
    from etastar.lambda1 import measure_sharpness

    shared = {**SMALL, "seeds": 1, "max_steps": None, "threshold": None, "batch_size": None}
    shared = {k: v for k, v in shared.items() if v is not None}
    ntk = measure_sharpness(parametrization="ntk", **shared)
    told = ntk.to_dict()
    assert told["lambda1_preconditioned"]["median"] < 0.5 * told["lambda1_plain"]["median"]
    assert told["bounds"]["lower"] is None
    assert "standard parametrisation only" in told["bounds_note"]
    assert told["conventions"]["parametrization"]["name"] == "ntk"
    with pytest.raises(etastar.EtaStarError, match="standard parametrisation only"):
        sharpness_bounds(
            MLP(width=8, depth=2, parametrization="mup"),
            torch.randn(5, 4),
            3,
            loss="mse",
            kind="gauss-newton",
        )
    with pytest.raises(ConfigError, match="ratios"):
        MLP(width=8, depth=2, parametrization="ntk").lr_ratios()
