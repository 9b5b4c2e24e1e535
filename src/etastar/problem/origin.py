"""Where trials start: fresh copies of a model as given, or of what a factory draws for a seed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from etastar.errors import ConfigError, ModelError
from etastar.machine import device_named
from etastar.problem import own_loss
from etastar.problem.hooks import lost_by_copying
from etastar.problem.nested import same, tensors
from etastar.problem.networks.base import Network, Params
from etastar.problem.streams import Stream
from etastar.problem.user_code import told

SEED_NAMES = ("seed", "s", "_", "random_state", "random_seed")
"""What an argument of a model factory is called that takes the seed although it has a default."""


class NetworkOrigin:
    """The paper's networks, drawn by `Network.init`.

    Args:
        network: The architecture.
        inputs: Input dimension d.
        outputs: Number of outputs C.
        dtype: Of the parameters.
        device: Where they are put.
    """

    varies = is_factory = True

    def __init__(
        self, network: Network, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.network, self.inputs, self.outputs = network, inputs, outputs
        self.dtype, self.device = dtype, device

    def draw(self, seed: int) -> Params:
        """Return the weights of a seed, `[1, ...]` each."""
        return self.network.init(
            [seed], self.inputs, self.outputs, dtype=self.dtype, device=self.device
        )

    def copy(self, seed: int) -> nn.Module:
        """Return the network of a seed, of one replica, as a module.

        Args:
            seed: Of the initialisation.
        """
        return OneReplica(self.network, self.draw(seed))


class OneReplica(nn.Module):
    """One replica of a `Network` as a module; parameters have the network's own names.

    Args:
        network: The architecture.
        params: Its weights, `[1, ...]` each.
    """

    def __init__(self, network: Network, params: Params) -> None:
        super().__init__()
        self.network = network
        for name, p in zip(network.parameter_names(), params, strict=True):
            self.register_parameter(name.replace(".", "_"), nn.Parameter(p[0].clone()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs `[B, C]` for inputs `[B, d]`."""
        return self.network.apply([p[None] for p in self.parameters()], x)[0]


class GivenOrigin:
    """A user's models, one per seed, drawn once; every trial trains a copy.

    Args:
        given: A module, or a factory seed → module. The factory is called under random streams
            fixed by the seed, so it need not use the seed itself.
        device: Where copies are put; None for where the given model is.
        checkpoint: A state dict to start from instead, see `etastar.maximal_lr`.
        loss_fn: One that may keep something, of which every model carries a copy; None for none.

    Raises:
        ModelError: What is given is no model, or cannot be copied.
    """

    def __init__(
        self,
        given: nn.Module | Callable[[int], nn.Module],
        device: torch.device | str | None,
        checkpoint: Mapping[str, Any] | None = None,
        loss_fn: Callable[..., Any] | None = None,
    ) -> None:
        self.is_factory = not isinstance(given, nn.Module)
        if self.is_factory and not callable(given):
            raise ModelError(
                "model must be a torch.nn.Module or a factory seed -> Module, got "
                f"{type(given).__name__}."
            )
        self.given = given
        self._checkpoint = checkpoint
        self._loss_fn = loss_fn
        self.varies = self.is_factory and checkpoint is None
        self._drawn: dict[int, nn.Module] = {}
        self._anew: dict[int, tuple[nn.Module, str]] = {}  # as built first, and why no copies serve
        self._device = device
        self.device = torch.device("cpu")  # until a model is drawn: see `settle`
        if device is not None:
            name = f"cuda:{device}" if isinstance(device, int) else str(device)
            try:
                self.device = device_named(name)
            except ConfigError as error:
                raise ModelError(str(error)) from None

    def copy(self, seed: int) -> nn.Module:
        """Return a fresh copy of a seed's initial model, in train mode, without gradients.

        Where a copy of what a factory draws would lose something, the factory is called again.

        Args:
            seed: Of the initialisation; of no effect if the model is given.
        """
        key = seed if self.is_factory else 0
        if key not in self._drawn:
            self._draw(key)
        return self._built_anew(key) if key in self._anew else copied_model(self._drawn[key])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the models that were drawn: they are drawn again."""
        return vars(self) | {"_drawn": {}, "_anew": {}}

    @property
    def copies_keep_hooks(self) -> bool:
        """Tell whether deep copies of the models drawn so far do all that the models do."""
        return not self._anew

    def _draw(self, seed: int) -> None:
        """Keep a seed's initial model, which is never trained."""
        model = self._built(seed) if self.is_factory else self.given
        assert isinstance(model, nn.Module)
        model = getattr(model, "_orig_mod", model)  # of torch.compile: each copy would compile anew
        lost, copied = lost_by_copying(model), model
        try:
            # a factory may hand out the same one every time
            copied = copied_model(model, self._loss_fn)
        except ModelError:
            if not self.is_factory:
                raise
            lost, copied = "what cannot be copied", self._built(seed)
            own_loss.attach(copied, self._loss_fn)
        if lost and not self.is_factory:
            raise ModelError(
                f"the model has {lost}: copies lose it, and every rate trains a fresh copy. "
                "Pass a factory seed -> Module that builds the model and registers its hooks."
            )
        if lost:
            self._anew[seed] = model, lost
            self._check_new(seed, copied)
        self._drawn[seed] = self._ready(copied)

    def _built(self, seed: int) -> nn.Module:
        """Return what the factory returns, if that is a model."""
        name = getattr(self.given, "__name__", type(self.given).__name__)
        numbers = (seed,) if takes_a_seed(self.given) else ()
        called = f"model is called as a factory, {name}({', '.join(map(str, numbers))}), and"
        if name in ("<lambda>", "partial"):  # no name of its own
            given = f"the seed {seed}" if numbers else "no argument"
            called = f"the factory that was given as the model, called with {given},"
        expected = (
            "Expected a torch.nn.Module, or a factory seed -> torch.nn.Module that takes one whole "
            "number, or nothing."
        )
        if inspect.isclass(self.given):
            expected += f" {name} is a class: pass an instance of it."
        with (
            told(lambda: called, expected),
            Stream("model", seed).active(),
        ):
            model = self.given(*numbers)
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the model factory must return a torch.nn.Module, got {type(model).__name__}."
            )
        return getattr(model, "_orig_mod", model)

    def _built_anew(self, seed: int) -> nn.Module:
        """Return the initial model of a seed from the factory itself.

        Raises:
            ModelError: It is not a new one, or not the same as before.
        """
        model = self._built(seed)
        self._check_new(seed, model)
        own_loss.attach(model, self._loss_fn)
        model = self._ready(model)
        model.zero_grad(set_to_none=True)
        if not same(_tensors(self._drawn[seed]), _tensors(model)):
            raise ModelError(
                "the model factory returns other weights when it is called again with the same "
                f"seed, {seed}, which it must be, for the model has {self._anew[seed][1]}: every "
                "rate starts from the same weights. Draw them from PyTorch's global stream or from "
                "a generator with the seed."
            )
        return model

    def _check_new(self, seed: int, model: nn.Module) -> None:
        """Raise if a model is, in part, one that the factory returned before."""
        before, lost = self._anew[seed]
        if {id(part) for part in _tensors(before)} & {id(part) for part in _tensors(model)}:
            raise ModelError(
                f"the model factory returns the same module every time, and it has {lost}: copies "
                "lose it. Let the factory build it anew."
            )

    def _ready(self, model: nn.Module) -> nn.Module:
        """Put a model of our own on its device, in train mode and at the checkpoint, if any."""
        if self._device is not None:
            model = model.to(self._device)
        for module in own_loss.modules(model)[1:]:
            module.to(next((p.device for p in model.parameters()), self.device))
            module.zero_grad(set_to_none=True)
        own_loss.set_training(model, True)
        if self._checkpoint is not None:
            try:
                model.load_state_dict(self._checkpoint)
            except (RuntimeError, TypeError, AttributeError) as error:
                raise ModelError(
                    f"from_checkpoint does not fit the model: {error}. Expected what "
                    "model.state_dict() returns, or {'model': ..., 'optimizer': ...} of both "
                    "state dicts."
                ) from error
        _check_trainable(model)
        return model

    def settle(self, seed: int) -> None:
        """Take the device of the model that trials start from; see whether seeds change weights.

        Args:
            seed: Of the initialisation.
        """
        model = self.copy(seed)
        if self._device is None:
            self.device = next(model.parameters()).device
        if self.varies:
            self.varies = not same(_tensors(model), _tensors(self.copy(seed + 1)))


Origin: TypeAlias = NetworkOrigin | GivenOrigin
"""Where trials start: one initial model per initialisation seed, of which each trains a copy. It
has the `device` where copies are put, and tells in `varies` whether seeds change the initial
weights, in `is_factory` whether models are drawn from seeds, rather than given."""


def copied_model(model: nn.Module, loss_fn: Callable[..., Any] | None = None) -> nn.Module:
    """Return a deep copy without gradients.

    Args:
        model: Tensors that it keeps of an earlier forward pass, as `weight_norm` does, come without
            their history.
        loss_fn: Of which the copy carries one, which may share parts of the model.

    Raises:
        ModelError: It cannot be copied.
    """
    kept = [t for module in model.modules() for t in tensors(list(vars(module).values()))]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in kept if not t.is_leaf}
    try:
        with torch.no_grad():  # what TorchScript copies would have a history
            copied = copy.deepcopy(model, memo)
        for given, own in zip(model.parameters(), copied.parameters(), strict=True):
            if own.requires_grad != given.requires_grad:
                own.requires_grad_(given.requires_grad)
            vars(own).update(copy.deepcopy(vars(given), memo))  # attributes of a parameter
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {error}), and every rate "
            "starts from a fresh copy. Pass a factory seed -> Module instead, which builds it."
        ) from error
    copied.zero_grad(set_to_none=True)
    own_loss.attach(copied, loss_fn, memo)
    return copied


def takes_a_seed(factory: Callable[..., Any]) -> bool:
    """Tell whether a model factory is called with the seed, or without arguments.

    Args:
        factory: Other arguments of it that have a default keep that.
    """
    try:
        given = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # of a function that is not written in Python
        return True
    places = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return any(p.kind == p.VAR_POSITIONAL for p in given) or any(
        p.default is p.empty or p.name in SEED_NAMES for p in places[:1]
    )


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _check_trainable(model: nn.Module) -> None:
    parameters = list(model.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise ModelError(
            "the model has lazy parameters without a shape. Run one batch through it first, so "
            "that every trial starts from the same weights."
        )
    if not any(p.requires_grad for p in parameters):
        raise ModelError(
            f"the model has no trainable parameter ({len(parameters)} parameters, all frozen). "
            "Call requires_grad_(True) on those that train."
        )
