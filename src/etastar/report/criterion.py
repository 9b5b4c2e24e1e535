"""Under which conditions a family was measured, in words: stands below every figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etastar.report.evidence import Family, Group
from etastar.report.style import count, listed, number

LOSS_TEXTS = {
    "mse": "mse (½ · sum over outputs · mean over samples, one-hot targets)",
    "cross-entropy": "cross-entropy (mean over samples)",
}


def criterion_text(family: Family) -> str:
    """Criterion, budget, data, losses, κ and training of a family."""
    s = _told(next((group for group in family.groups if group.measured), family.groups[0]))
    low, high = _extent(family, "start_lr")[0], _extent(family, "end_lr")[1]
    kind = "touches" if s["criterion"] == "reach" else "is, when the budget ends, at least"
    batch = "full batch" if s["batch_size"] == "full" else f"batch {s['batch_size']}"
    kappas = listed([number(kappa) for kappa in family.kappas])
    return (
        f"Criterion ({s['criterion']}): validation accuracy {kind} {number(s['threshold'])} "
        f"{_budgets(family)}. Data: {_data(s)}. {_training(s)}, {batch}. "
        f"Loss: {listed([LOSS_TEXTS.get(loss, loss) for loss in family.losses])}. "
        f"κ, the input layer's share of the learning rate: {kappas}. {_search(family)}, rates "
        f"from {number(low)} to {number(high)}."
    )


def _extent(family: Family, name: str) -> tuple[float, float]:
    """Least and largest value of a setting of the search, which may differ between networks."""
    values = [cell.fields[name] for group in family.groups for cell in group.cells]
    return min(values), max(values)


def _budgets(family: Family) -> str:
    """`within 150 steps`, per loss where they differ."""
    texts: dict[str, list[str]] = {}
    for loss in family.losses:
        texts.setdefault(_budget(family.of_loss(loss)[0]), []).append(loss)
    if len(texts) == 1:
        return next(iter(texts))
    return listed([f"{text} for {listed(losses)}" for text, losses in texts.items()])


def _budget(group: Group) -> str:
    told = _told(group)
    steps, epochs, every = told["max_steps"], told["epochs"], told["eval_every"]
    parts = [count(int(steps), "step")] if steps else []
    if epochs:
        text = f"{number(epochs)} epoch{'s' if epochs != 1 else ''}"
        parts.append(f"({text})" if steps else text)
    checked = f", evaluated every {every}" if every and told["criterion"] == "reach" else ""
    return f"within {' '.join(parts)}{checked}"


def _data(told: Mapping[str, Any]) -> str:
    if told["train_size"] is None or told["val_size"] is None:
        return str(told["dataset"])
    return "{dataset}, {train_size} training and {val_size} validation samples".format(**told)


def _training(settings: Mapping[str, Any]) -> str:
    momentum = f" with momentum {number(settings['momentum'])}" if settings["momentum"] else ""
    trained = f"trained by {settings['optimizer'].upper()}{momentum} at a constant rate"
    network = "ReLU networks"
    if own := settings.get("model"):
        return f"Networks of {own} (code {settings['code'][:8]}), {trained}"
    if settings["norm"] != "none":
        network += f" with {settings['norm']} normalisation"
    if settings["parametrization"] != "standard":
        network += f" in the {settings['parametrization']} parametrisation"
    if not settings["biases"]:
        network += " without biases"
    return f"{network}, output variance {number(settings['output_variance'])}, {trained}"


def _search(family: Family) -> str:
    """How η* was looked for."""
    if family.curve:
        cells = [cell for group in family.groups for cell in group.cells]
        precision = max(cell.settings.search().precision for cell in cells)
        return (
            "η* is where half of fresh seeds train, sought until its 95 % interval reaches the "
            f"factor {number(1 + precision)} to either side"
        )
    finest, coarsest = (number(100 * end) for end in _extent(family, "resolution"))
    resolution = finest if finest == coarsest else f"{finest} to {coarsest}"
    wanted = sorted({len(cell.seeds) for group in family.groups for cell in group.cells})
    seeds = count(wanted[0], "seed") if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]} seeds"
    return f"{seeds} per network, brackets within {resolution} %"


def _told(group: Group) -> dict[str, Any]:
    """Its settings, and where something was measured what the data decided."""
    decided = ("max_steps", "eval_every", "train_size", "val_size", "batch_size")
    found = {name: group.rows[name][0] for name in decided} if group.measured else {}
    return group.cells[0].fields | {name: v for name, v in found.items() if v is not None}
