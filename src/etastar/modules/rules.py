"""Update rules for stacked parameters, one learning rate per replica.

The arithmetic is that of `torch.optim`, in its order; only the rate is a vector. Rates and bias
corrections are computed in float64, as Python numbers are there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    State = dict[str, Tensor]


class Rule(ABC):
    """The update of one parameter tensor of all replicas.

    Args:
        group: The parameter group's options, as the optimizer holds them.
    """

    slots: tuple[str, ...]
    """Tensors kept per parameter, under the names that `torch.optim` gives them."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.group = group

    @abstractmethod
    def __call__(self, p: Tensor, g: Tensor, state: State, lr: Tensor, steps: Tensor) -> None:
        """Update `p` and `state` in place.

        Args:
            p: Parameter, `[R, ...]`.
            g: Its gradient; may be overwritten.
            state: The slots, `[R, ...]` each, zero before the first step.
            lr: η of each replica, float64 `[R]`.
            steps: Steps taken including this one, float64 `[R]`.
        """

    @classmethod
    @abstractmethod
    def refuses(cls, group: Mapping[str, Any]) -> str | None:
        """Which option of the group this rule does not have, if any."""

    def _signed(self, g: Tensor) -> Tensor:
        return -g if self.group["maximize"] else g


def like(values: Tensor, p: Tensor) -> Tensor:
    """Per-replica numbers `[R]` in the shape and type that broadcasts over `p` `[R, ...]`."""
    return values.to(p.dtype).view(-1, *[1] * (p.ndim - 1))


class SGDRule(Rule):
    """`torch.optim.SGD`: heavy-ball or Nesterov momentum, weight decay."""

    slots = ("momentum_buffer",)

    def __call__(self, p: Tensor, g: Tensor, state: State, lr: Tensor, steps: Tensor) -> None:
        """See `Rule`."""
        g = self._signed(g)
        if self.group["weight_decay"]:
            g = g.add(p, alpha=self.group["weight_decay"])
        if momentum := self.group["momentum"]:
            buffer = state["momentum_buffer"].mul_(momentum).add_(g)
            g = g.add(buffer, alpha=momentum) if self.group["nesterov"] else buffer
        p.addcmul_(g, like(lr, p), value=-1)

    @classmethod
    def refuses(cls, group: Mapping[str, Any]) -> str | None:
        """See `Rule`: dampening treats the first step differently."""
        return "dampening" if group["momentum"] and group["dampening"] else None


class AdamRule(Rule):
    """`torch.optim.Adam` and `AdamW`."""

    slots = ("exp_avg", "exp_avg_sq")

    def __call__(self, p: Tensor, g: Tensor, state: State, lr: Tensor, steps: Tensor) -> None:
        """See `Rule`."""
        g = self._signed(g)
        beta1, beta2 = self.group["betas"]
        if decay := self.group["weight_decay"]:
            if self.group["decoupled_weight_decay"]:
                p.mul_(like(1 - lr * decay, p))
            else:
                g = g.add(p, alpha=decay)
        mean = state["exp_avg"].lerp_(g, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = like((1 - beta2**steps).sqrt(), p)
        scale = like(lr / (1 - beta1**steps), p)
        p.addcmul_(mean / (square.sqrt() / root).add_(self.group["eps"]), scale, value=-1)

    @classmethod
    def refuses(cls, group: Mapping[str, Any]) -> str | None:
        """See `Rule`."""
        return "amsgrad" if group["amsgrad"] else None


def rule_for(optimizer: Optimizer) -> type[Rule] | str:
    """The rule that repeats an optimizer on stacked parameters, or why there is none."""
    import torch

    rules: dict[type, type[Rule]] = {
        torch.optim.SGD: SGDRule,
        torch.optim.Adam: AdamRule,
        torch.optim.AdamW: AdamRule,
    }
    rule = rules.get(type(optimizer))
    if rule is None:
        return f"{type(optimizer).__name__} has no rule for stacked parameters"
    for group in optimizer.param_groups:
        if option := rule.refuses(group) or ("differentiable" if group["differentiable"] else None):
            return f"{type(optimizer).__name__} with {option} has no rule for stacked parameters"
    return rule


def options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each parameter group, with those that older versions of PyTorch imply."""
    import torch

    decoupled = isinstance(optimizer, torch.optim.AdamW)
    return [
        {"decoupled_weight_decay": decoupled, **{k: v for k, v in group.items() if k != "params"}}
        for group in optimizer.param_groups
    ]
