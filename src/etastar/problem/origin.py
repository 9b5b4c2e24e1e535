"""Where trials start: fresh copies of a model as given, or of what a factory draws for a seed."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import isclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etastar.errors import ConfigError, EtaStarError, ModelError
from etastar.problem import own_loss
from etastar.problem.hooks import lost_by_copying
from etastar.problem.streams import Stream

if TYPE_CHECKING:
    from etastar.problem.networks.base import Network, Params


class Origin(ABC):
    """Where trials start: one initial model per initialisation seed, of which each trains a copy.

    Attributes:
        device: Where copies are put.
        varies: Whether seeds change the initial weights.
        is_factory: Whether models are drawn from seeds, rather than given.
    """

    device: torch.device
    varies: bool
    is_factory: bool

    @abstractmethod
    def copy(self, seed: int) -> nn.Module:
        """Return a fresh copy of a seed's initial model, in train mode, without gradients.

        Args:
            seed: Of the initialisation; of no effect if the model is given.
        """


class NetworkOrigin(Origin):
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
        """See `Origin`: the network of one replica as a module."""
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


class GivenOrigin(Origin):
    """A user's models, one per seed, drawn once; every trial trains a copy.

    Args:
        given: A module, or a factory seed → module. The factory is called under random streams
            fixed by the seed, so it need not use the seed itself.
        device: Where copies are put; None for where the given model is.
        checkpoint: A state dict to start from instead, see `etastar.maximal_lr`.
        loss_fn: Of which every model carries a copy, if it may keep something.

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
        self._given = given
        self._checkpoint = checkpoint
        self._loss_fn = loss_fn if loss_fn and own_loss.has_state(loss_fn) else None
        self.varies = self.is_factory and checkpoint is None
        self._drawn: dict[int, nn.Module] = {}
        self._hooked: dict[int, nn.Module] = {}  # as a factory returned them, never trained
        self._device = device
        self.device = self._find_device()

    def copy(self, seed: int) -> nn.Module:
        """See `Origin`.

        Where a copy would lose hooks of what a factory draws, the factory is called again.
        """
        key = seed if self.is_factory else 0
        if key not in self._drawn:
            self._drawn[key] = self._draw(seed)
        if key in self._hooked:
            return self._anew(seed)
        return self._copied(self._drawn[key])

    @property
    def copies_keep_hooks(self) -> bool:
        """Tell whether deep copies of the models drawn so far do all that the models do."""
        return not self._hooked

    def _draw(self, seed: int) -> nn.Module:
        if isinstance(self._given, nn.Module):
            model = getattr(self._given, "_orig_mod", self._given)
            if lost := lost_by_copying(model):
                raise ModelError(
                    f"the model has {lost}: copies lose it, and every rate trains a fresh copy. "
                    "Pass a factory seed -> Module that builds the model and registers its hooks."
                )
        else:
            model = self._built(seed)
            if lost_by_copying(model):
                self._hooked[seed] = model
        return self._ready(
            self._copied(model, self._loss_fn)
        )  # a factory may hand out the same one every time

    def _built(self, seed: int) -> nn.Module:
        """Return what the factory returns, if that is a model."""
        try:
            with Stream("model", seed).active():
                model = self._given(seed)
        except EtaStarError:
            raise
        except Exception as error:
            name = getattr(self._given, "__name__", type(self._given).__name__)
            hint = f" {name} is a class: pass an instance of it." if isclass(self._given) else ""
            raise ModelError(
                f"model is called as a factory, {name}({seed}), and raised "
                f"{type(error).__name__}: {error}. Expected a torch.nn.Module, or a factory "
                f"seed -> torch.nn.Module that takes one whole number.{hint}"
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the model factory must return a torch.nn.Module, got {type(model).__name__}."
            )
        return model

    def _anew(self, seed: int) -> nn.Module:
        """Return the initial model of a seed from the factory itself, with its hooks.

        Raises:
            ModelError: It is not a new one, or not the same as before.
        """
        model, before = self._built(seed), self._hooked[seed]
        known = {id(part) for part in (*before.parameters(), *before.buffers())}
        tensors = [*model.parameters(), *model.buffers()]
        if any(id(part) in known for part in tensors):
            raise ModelError(
                f"the model factory returns the same module every time, and it has "
                f"{lost_by_copying(before)}: copies lose it. Let the factory build it anew."
            )
        if self._loss_fn is not None:
            own_loss.attach(model, self._copied_loss(self._loss_fn, {}))
        model = self._ready(model)
        model.zero_grad(set_to_none=True)
        same = [*self._drawn[seed].parameters(), *self._drawn[seed].buffers()]
        tensors = [*model.parameters(), *model.buffers()]
        if len(same) != len(tensors) or not all(map(torch.equal, same, tensors)):
            raise ModelError(
                "the model factory returns other weights when it is called again with the same "
                f"seed, {seed}, and hooks make that necessary: every rate starts from the same "
                "weights. Draw them from PyTorch's global stream or from a generator with the seed."
            )
        return model

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

    def _copied_loss(self, loss_fn: Callable[..., Any], memo: dict[int, Any]) -> Any:
        try:
            return copy.deepcopy(loss_fn, memo)
        except Exception as error:
            raise ModelError(
                f"loss_fn cannot be copied ({type(error).__name__}: {error}), and every rate needs "
                "a copy of what it may keep. Pass a plain function, or a module without tensors "
                "that were computed."
            ) from error

    def _copied(self, model: nn.Module, loss_fn: Callable[..., Any] | None = None) -> nn.Module:
        """Return a deep copy of a model, with one of a loss, which may share parts of it."""
        memo: dict[int, Any] = {}
        try:
            copied = copy.deepcopy(model, memo)
            for given, own in zip(model.parameters(), copied.parameters(), strict=True):
                vars(own).update(copy.deepcopy(vars(given), memo))  # attributes of a parameter
        except Exception as error:
            raise ModelError(
                f"the model cannot be copied ({type(error).__name__}: {error}), and every rate "
                "starts from a fresh copy. Pass a factory seed -> Module instead, which builds it."
            ) from error
        copied.zero_grad(set_to_none=True)
        if loss_fn is not None:
            own_loss.attach(copied, self._copied_loss(loss_fn, memo))
        return copied

    def _find_device(self) -> torch.device:
        from etastar.machine import device_named

        if self._device is not None:
            try:
                given = self._device  # or an index, as PyTorch allows
                name = f"cuda:{given}" if isinstance(given, int) else str(given)
                return device_named(name, instead="device='cpu'")
            except ConfigError as error:
                raise ModelError(str(error)) from None
        if isinstance(self._given, torch.nn.Module):
            parameter = next(self._given.parameters(), None)
            return torch.device("cpu") if parameter is None else parameter.device
        return torch.device("cpu")  # until the factory has drawn one: see `settle_device`

    def settle_device(self, seed: int) -> None:
        """Take the device of the model that the factory draws, unless one was asked for."""
        if self._device is None:
            self.device = next(self.copy(seed).parameters()).device


def _check_trainable(model: nn.Module) -> None:
    from torch.nn.parameter import UninitializedParameter

    parameters = list(model.parameters())
    if any(isinstance(p, UninitializedParameter) for p in parameters):
        raise ModelError(
            "the model has lazy parameters without a shape. Run one batch through it first, so "
            "that every trial starts from the same weights."
        )
    if not any(p.requires_grad for p in parameters):
        raise ModelError(
            f"the model has no trainable parameter ({len(parameters)} parameters, all frozen). "
            "Call requires_grad_(True) on those that train."
        )
