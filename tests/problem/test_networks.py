"""Architectures: the recipe of the initialisation, `apply` against torch.nn, the registry."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.stats import chi2

from etastar.engines.reference import build_module
from etastar.errors import ConfigError
from etastar.problem.networks import ARCHITECTURES, MLP, LayerNormMLP, build

NETWORKS = [
    MLP(width=7, depth=3),
    MLP(width=7, depth=1, biases=False, output_variance=0.3, input_lr_ratio=0.1),
    LayerNormMLP(width=7, depth=2),
    LayerNormMLP(width=7, depth=3, biases=False),
]


def test_every_architecture_is_in_the_table() -> None:
    assert {network.architecture for network in NETWORKS} == set(ARCHITECTURES)


def test_initialisation_follows_the_documented_recipe() -> None:
    drawn = MLP(width=5, depth=2, output_variance=0.7).init([3, 11], 4, 2)
    for row, seed in enumerate((3, 11)):
        g = torch.Generator().manual_seed(2 * seed)
        for layer, (i, o, variance) in enumerate([(4, 5, 2.0), (5, 5, 2.0), (5, 2, 0.7)]):
            w = torch.randn(i, o, generator=g, dtype=torch.float64) * math.sqrt(variance / i)
            assert torch.equal(drawn[2 * layer][row], w.float())
            assert not drawn[2 * layer + 1][row].any()


def test_weight_variances() -> None:
    """Chi-squared at 1e-4 either side, four layers: a false alarm in 1,250 choices of seeds."""
    drawn = MLP(width=64, depth=3, output_variance=0.5, biases=False).init(range(20), 30, 10)
    for weight, fan_in, variance in zip(drawn, (30, 64, 64, 64), (2, 2, 2, 0.5), strict=True):
        scaled = float((weight.double() ** 2).sum() * fan_in / variance)
        assert chi2.ppf(1e-4, weight.numel()) < scaled < chi2.isf(1e-4, weight.numel())


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_a_replica_depends_on_its_seed_alone(network: MLP) -> None:
    alone = network.init([5], 6, 3)
    among = network.init([9, 5, 2], 6, 3)
    precise = network.init([5], 6, 3, dtype=torch.float64)
    for one, three, double in zip(alone, among, precise, strict=True):
        assert torch.equal(one[0], three[1])
        assert torch.equal(one, double.float())


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_apply_equals_torch_modules(network: MLP) -> None:
    x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    params = network.init([0, 1, 2], 6, 3, dtype=torch.float64)
    if network.biases:
        for i, bias in enumerate(params[1::2]):
            bias += 0.1 * (i + 1)
    outputs = network.apply(params, x)
    assert outputs.shape == (3, 9, 3)
    torch.testing.assert_close(network.apply(params, x.expand(3, -1, -1)), outputs)
    for seed in range(3):
        module = build_module(network, seed, 6, 3, torch.float64)
        linears = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(linears):
            if network.biases:
                torch.nn.init.constant_(layer.bias, 0.1 * (i + 1))
        torch.testing.assert_close(module(x), outputs[seed])


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_names_ratios_and_counts_match_the_tensors(network: MLP) -> None:
    params = network.init([0], 6, 3)
    names = network.parameter_names()
    ratios = network.lr_ratios()
    assert len(params) == len(names) == len(ratios)
    assert network.parameter_count(6, 3) == sum(p[0].numel() for p in params)
    for name, ratio in zip(names, ratios, strict=True):
        assert ratio == (network.input_lr_ratio if name.startswith("layers.0.") else 1.0)


def test_active_layers_by_hand() -> None:
    network = MLP(width=4, depth=3)
    params = network.init([0, 1], 5, 2)
    params[2][1] = 0.0  # second layer of replica 1: weights zero, bias negative
    params[3][1] = -1.0
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    active = network.active_layers(params, x)
    assert active[0].all()
    assert active[1].tolist() == [True, False, active[1, 2].item()]


def test_registry_and_validation() -> None:
    assert build("mlp", width=3) == MLP(width=3)
    assert hash(MLP(width=3)) == hash(MLP(width=3))
    with pytest.raises(ConfigError, match="unknown architecture 'mpl'; did you mean 'mlp'"):
        build("mpl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "MLP: width must be greater than or equal to 1; got 0."),
        ({"depth": 0}, "MLP: depth must be greater than or equal to 1; got 0."),
        ({"input_lr_ratio": -1.0}, "MLP: input_lr_ratio must be greater than or equal to 0"),
        ({"wdth": 3}, "unknown argument of MLP 'wdth'; did you mean 'width'?"),
        ({"width": True}, "MLP: width must be a valid integer; got True."),
        ({"width": "a"}, "MLP: width must be a valid integer; got 'a'."),
    ],
    ids=str,
)
def test_a_bad_hyperparameter_is_one_line(fields: dict[str, object], message: str) -> None:
    for make in (MLP, partial(build, "mlp")):
        with pytest.raises(ConfigError) as caught:
            make(**fields)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_an_architecture_takes_no_name_but_its_own() -> None:
    for network in NETWORKS:
        assert type(network)(architecture=network.architecture) == type(network)()
        with pytest.raises(ConfigError, match=f"architecture must be '{network.architecture}'"):
            type(network)(architecture="other")
