"""λ1 of any `torch.nn.Module`: checks, solver, result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from etastar.checking import check_solver
from etastar.curvature.agreement import bend_note, check_slope, check_symmetric
from etastar.curvature.determinism import check_deterministic
from etastar.curvature.eigenpairs import Eigenpairs, largest_eigenpairs
from etastar.curvature.graphs import Kind
from etastar.curvature.products import LossCurvature, LossFunction, unchanged
from etastar.curvature.shares import fit_shares
from etastar.problem.hooks import on_gradients
from etastar.problem.streams import untouched

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class SharpnessResult(Eigenpairs):
    """The largest eigenvalues of a loss's curvature matrix at the model's present weights.

    What is guaranteed: some eigenvalue lies within `residuals[i]` of `values[i]`, and `values[0]`
    is a lower bound of λ1 (both up to the rounding of the model's dtype). That no larger eigenvalue
    was missed was checked from a second random start, which is no proof.

    Attributes:
        values: Descending; `values[0]` is λ1. In units of the loss per squared unit of the weights.
        lambda_min: The smallest Ritz value, an upper bound of the smallest eigenvalue.
        residuals: ‖A·v − θ·v‖ of each value, for a unit vector v.
        lambda_min_residual: The residual of `lambda_min`.
        iterations: Products with the curvature matrix.
        converged: Whether every residual is within `tol` of its own value (of the largest, for
            `lambda_min`), and the second start ended, within `max_iter`.
        limit: What kept it from converging: `"steps"` (raise `max_iter`) or `"precision"`, that of
            products, which no `max_iter` changes; None if nothing did.
        vectors: Unit eigenvectors `[k, P]`, if asked for.
        kind: `"hessian"` or `"gauss-newton"`.
        loss: The loss at these weights, weighted over the batches by their sample counts.
        samples: The number of samples in all batches, or what `batch_size` says.
        parameters: Names of the trainable parameters, in the order of the vectors' entries.
        preconditioned: Whether the matrix is `D^½ H D^½` with learning-rate ratios D, not H.
        notes: What qualifies the numbers: frozen statistics, kinks, hooks that were left out, how
            batches count, what did not converge.
    """

    kind: Kind
    loss: float
    samples: float
    parameters: tuple[str, ...]
    preconditioned: bool
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """λ1."""
        return self.values[0]

    def __str__(self) -> str:
        matrix = {"hessian": "H", "gauss-newton": "G"}[self.kind]
        matrix = f"D^½ {matrix} D^½" if self.preconditioned else matrix
        state = "" if self.converged else ", NOT CONVERGED"
        lines = [
            f"λ{i}({matrix}) = {value:.6g} ± {residual:.1e}"
            for i, (value, residual) in enumerate(
                zip(self.values, self.residuals, strict=True), start=1
            )
        ]
        lines.append(f"λ_min({matrix}) = {self.lambda_min:.6g} ± {self.lambda_min_residual:.1e}")
        lines.append(f"({self.iterations} products, {self.samples:g} samples{state})")
        return "\n".join([*lines, *self.notes])


def sharpness(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    kind: Kind = "hessian",
    lr_ratios: Mapping[str, float] | None = None,
    k: int = 1,
    tol: float = 1e-4,
    max_iter: int = 1000,
    seed: int = 0,
    return_vectors: bool = False,
    batch_size: Callable[[Any, Any], int] | None = None,
) -> SharpnessResult:
    """Compute the largest eigenvalue λ1 of the Hessian or Gauss-Newton matrix of a model's loss.

    The loss is `loss_fn(model(inputs), targets)` averaged over the batches, each weighted by its
    number of samples; its normalisation is `loss_fn`'s, and λ1 scales with it. The model is
    measured in the mode it is in, and left as it was, bit for bit.

    Batch normalisation in train mode normalises every batch by its own statistics: λ1 is then a
    property of this partition into batches, and a note says so. Dropout in train mode gives a
    different loss at every evaluation, and is refused by the name of its layer.

    Before and after the search the products are held to the loss itself, by forward passes: it is
    the same twice, products are symmetric, the gradient is its slope, and along the eigenvector it
    bends by λ1 (the Hessian's only). What is off is refused or noted with its likely cause. Each
    batch counts as it would in one batch with all others, which is found from the loss.

    The Hessian of a ReLU network does not see its kinks (`etastar.curvature.graphs`); the
    Gauss-Newton value is worth printing beside it.

    Args:
        model: Any module.
        loss_fn: Maps `(model(inputs), targets)` to the mean loss of a batch, a scalar.
        batches: Pairs `(inputs, targets)`, read once. `inputs` may be a tensor, or a tuple or
            mapping of arguments.
        kind: `"hessian"`, or `"gauss-newton"`: `JᵀMJ`, M the Hessian of the loss in the outputs.
        lr_ratios: Learning-rate ratio by parameter name, 1 where not named. If given, the result is
            that of `D^½ H D^½`, whose λ1 limits the rate η of training at η·D.
        k: Number of eigenvalues.
        tol: Relative residual at which an eigenvalue is accepted: its error is of the order of
            `tol²·λ1/gap`.
        max_iter: Lanczos steps before giving up; the result then says `converged=False`.
        seed: Seed of the random starts.
        return_vectors: Whether to return the eigenvectors.
        batch_size: Maps `(inputs, targets)` to the number of samples, where that is not the first
            dimension.

    Returns:
        The values with their residuals; see `SharpnessResult` for what they guarantee.

    Raises:
        ConfigError: A setting is out of range, a name is unknown, a batch does not fit.
        CurvatureError: The loss is not finite, not deterministic or not twice differentiable, or
            the products are not its second derivatives.

    Example:
        The loss ½·3·w² has curvature 3:

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
        >>> x, y = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
        >>> result = sharpness(model, lambda z, y: 1.5 * (z - y).square().mean(), [(x, y)])
        >>> round(result.value, 12), result.converged
        (3.0, True)
    """
    tol, max_iter, seed = check_solver(tol, max_iter, seed)
    with untouched(batches):  # reading a loader draws from global generators
        operator = LossCurvature(
            model, loss_fn, batches, kind=kind, lr_ratios=lr_ratios, batch_size=batch_size
        )
        hooked = on_gradients(model)
        with unchanged(operator.whole), torch.autocast(operator.device.type, enabled=False):
            several = len(operator.batches) > 1 and batch_size is None
            notes = _notes(model) + (fit_shares(operator) if several else [])
            loss, gradient = check_deterministic(operator, model)
            products = check_symmetric(operator, seed)
            pairs = largest_eigenpairs(
                operator,
                operator.size,
                k=k,
                tol=tol,
                max_iter=max_iter,
                seed=seed,
                dtype=operator.dtype,
                device=operator.device,
            )
            notes += check_slope(operator, loss, gradient)
            if kind == "hessian" and pairs.vectors is not None:
                notes += bend_note(operator, loss, pairs.vectors[0], pairs.values[0])
    if hooked:
        notes.append(
            f"{hooked}: left out, as it does not change the loss. Rates of parameters go into "
            "`lr_ratios`."
        )
    if pairs.limit:
        notes.append(_why_not(pairs, operator, tol, max_iter))
    pairs = replace(
        pairs,
        iterations=pairs.iterations + products,
        vectors=pairs.vectors if return_vectors else None,
    )
    return SharpnessResult(
        **vars(pairs),
        kind=kind,
        loss=loss,
        samples=operator.samples,
        parameters=tuple(operator.names),
        preconditioned=lr_ratios is not None,
        notes=tuple(notes),
    )


def _why_not(pairs: Eigenpairs, operator: LossCurvature, tol: float, max_iter: int) -> str:
    """Say why the solver did not converge, and what would help."""
    if pairs.limit == "steps":
        return (
            f"not converged to {tol:g} within {max_iter} steps: the residuals above still hold; "
            "raise `max_iter` or `tol`."
        )
    name = {torch.finfo(t).eps: str(t).removeprefix("torch.") for t in HALF}.get(operator.epsilon)
    if operator.autocast["enabled"]:
        remedy = "call sharpness outside of autocast"
    elif name:
        remedy = "measure a float32 copy, model.float(), on data.float()"
    elif operator.dtype == torch.float32:
        name, remedy = "float32", "measure a float64 copy, model.double(), on data.double()"
    else:
        name, remedy = "float64", "raise `tol`"
    return (
        f"not converged to {tol:g}: limited by the precision of products, {name}, which no "
        f"`max_iter` changes; the residuals above still hold. To go on, {remedy}."
    )


def _notes(model: nn.Module) -> list[str]:
    """Say what a reader must know about normalisation layers."""
    norms = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if not norms:
        return []
    return [
        f"batch normalisation in train mode ({', '.join(norms)}): every batch was normalised by "
        "its own statistics, so λ1 depends on the partition into batches; running statistics were "
        "frozen (restored afterwards). Call model.eval() for the λ1 of the function they define."
    ]
