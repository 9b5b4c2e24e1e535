"""Studies of any architecture: cells whose networks a function of the user builds.

`[base] model = "my_module:build"`: every key of a grid, of the base or of a cell that is neither
data, step, criterion nor search is passed on, as in `build(seed, width=64, depth=4)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import Field

from etastar.errors import ConfigError, nearest
from etastar.problem.trial import Criterion, Recipe
from etastar.problem.user_code import code_of, imported_code, split_place, told
from etastar.settings import BATCH_SIZE, DATA_OPTIONS, NETWORK_OPTIONS, Settings

if TYPE_CHECKING:
    from etastar.problem.problem import Problem

Keyword: TypeAlias = bool | int | float | str
MEANINGLESS = {
    "from_step": "studies measure η* of a model of your own from initialisation",
    "from_lr": "studies measure η* of a model of your own from initialisation",
    "dtype": "the model's own type is kept: make it in `model`",
}
"""Settings that say nothing to a factory, with the reason."""
SIZES = ("width", "depth")
"""What a law is in; the table `law` of a study file may name other keys for them."""


class FactorySettings(Settings):
    """Settings of a cell whose network is built by a function of the user.

    `width` and `depth`, which laws are in, are those of the keywords, or of the keys that stand for
    them; 1 where there is none. The other settings of the paper's networks have no meaning.
    """

    model: str
    """MODULE:NAME of `(seed, **keywords) -> nn.Module`."""
    data_from: str | None = None
    """MODULE:NAME of a function without arguments that returns the data; None for `dataset`."""
    keywords: dict[str, Keyword] = Field(default_factory=dict)
    """What the factory is called with, beside the seed."""
    code: str
    """Fingerprint of the code of the model; after a `+` that of the data, where they have any."""
    folders: tuple[str, ...]
    """Where modules are looked for: beside the study file, then where the command runs."""

    def resolved(self, name: str | None = None) -> Settings:
        """See `Settings.resolved`: data of the user's have no defaults."""
        return self if self.data_from else super().resolved(name)

    def told(self) -> dict[str, Any]:
        """See `Settings.told`: the keywords stand beside the settings, as in the study file."""
        fields = self.model_dump(exclude={"keywords", "folders", "data_from"})
        fields |= dict.fromkeys(NETWORK_OPTIONS - {*SIZES, "input_lr_ratio"})
        fields["dataset"] = self.data_from or self.dataset
        return fields | self.keywords

    def identity(self) -> dict[str, Any]:
        """See `Settings.identity`: no setting of the paper's networks that is not a keyword."""
        return {
            name: value
            for name, value in self.told().items()
            if name in self.keywords or name not in NETWORK_OPTIONS
        }

    @property
    def title(self) -> str:
        """E.g. `cnn:build width=8 depth=2 cross-entropy digits`."""
        keys = " ".join(f"{name}={value}" for name, value in self.keywords.items())
        return f"{self.model} {keys} {self.loss} {self.data_from or self.dataset}"

    def factory(self) -> Callable[[int], Any]:
        """Return seed → module.

        Raises:
            ConfigError: The code has changed, cannot be imported, or does not take the keywords.
        """
        build = imported_code("model", self.model, self.folders, self.code.split("+")[0])
        if not callable(build):
            raise ConfigError(
                f"model {self.model} is a {type(build).__name__}; expected a function (seed, "
                "**keywords) -> nn.Module."
            )
        try:
            inspect.signature(build).bind(0, **self.keywords)
        except TypeError as error:
            raise self._wrong_keywords(build, error) from None
        except ValueError:  # a builtin without a signature: calling it will tell
            pass
        return lambda seed: build(seed, **self.keywords)

    def _wrong_keywords(self, build: Callable[..., Any], error: TypeError) -> ConfigError:
        """Return what to say where a factory does not take the keywords."""
        taken = list(inspect.signature(build).parameters)[1:]
        for name in self.keywords:
            if name not in taken:
                near = nearest(name, [*taken, *(Settings.model_fields.keys() - NETWORK_OPTIONS)])
                hint = f"; did you mean {near!r}?" if near else f". It takes: {', '.join(taken)}."
                return ConfigError(f"model {self.model} takes no {name!r}{hint}")
        return ConfigError(f"model {self.model}: {error}; give it in [base] or in a grid.")

    def given_data(self) -> tuple[Any, Any]:
        """Return training and validation data, as `maximal_lr` takes them.

        Raises:
            ConfigError: The function of the user fails, or returns something else.
        """
        from etastar.problem.given_data import pair_of

        if self.data_from is None:
            return self.data(), None
        load = imported_code("data", self.data_from, self.folders, self.code.split("+")[-1])
        if callable(load):
            with told(lambda: f"data {self.data_from}"):
                load = load()
        return pair_of(load, f"data {self.data_from}")

    def problem(self) -> Problem:
        """Return what is trained, all checked: the first steps are taken to see that they can be.

        Raises:
            ConfigError: Model, data and settings do not go together.
        """
        import torch

        from etastar.machine import device_named
        from etastar.problem.losses import half_squared_distance
        from etastar.problem.own_model import OwnModel

        full = self.resolved()
        if full.threshold is None:
            raise ConfigError(
                "threshold has no default for data of your own: give the validation accuracy that "
                "counts as trained."
            )
        losses: dict[str, Callable[..., Any]] = {
            "cross-entropy": torch.nn.functional.cross_entropy,
            "mse": half_squared_distance,
        }
        train_data, val_data = self.given_data()
        asked = OwnModel(
            model=self.factory(),
            train_data=train_data,
            val_data=val_data,
            loss_fn=losses[self.loss],
            optimizer=partial(torch.optim.SGD, momentum=self.momentum),
            batch_size=full.batch_size,  # type: ignore[arg-type]
            device=device_named(self.device),
            progress=False,
            **{name: getattr(full, name) for name in _SAME},
        )
        problem, _, _ = asked.problem()
        return problem.holding() if self.criterion == "hold" else problem

    def recipe_of(self, problem: Problem) -> Recipe:
        """Return how trials train, every default filled in.

        Args:
            problem: See `problem`.
        """
        return Recipe(
            loss=self.loss,
            optimizer=self.optimizer,
            momentum=self.momentum,
            batch_size=getattr(problem.train, "batch", None) or self.batch_size or BATCH_SIZE,
            criterion=Criterion(
                kind=self.criterion,
                threshold=problem.objective.threshold,
                max_steps=problem.max_steps,
                eval_every=problem.eval_every,
                epochs=self.epochs,
            ),
        )

    def facts(self, problem: Problem) -> dict[str, Any]:
        """Return what the data decided, as the store keeps it.

        Args:
            problem: See `problem`.
        """
        sizes = {
            name: getattr(batches, "samples", None)
            for name, batches in (("train_size", problem.train), ("val_size", problem.val))
        }
        return {"classes": None, "inputs": None, "data": {"name": self.told()["dataset"], **sizes}}


_SAME = ("threshold", "epochs", "max_steps", "eval_every", "start_lr", "end_lr", "first_seed")


def arranged(
    given: Mapping[str, tuple[str, Any]], law: Mapping[str, str], folders: tuple[str, ...]
) -> dict[str, Any]:
    """Sort the keys of a cell with a `model` into settings and keywords of the factory.

    Args:
        given: By key, its place in the study file and its value.
        law: By size, the key that stands for it: see `SIZES`.
        folders: Where modules are looked for.

    Raises:
        ConfigError: A key says nothing beside a `model`, or a value cannot be passed on.
    """
    own = {"model", "data"}
    for name, (at, value) in given.items():
        if name in own and not isinstance(value, str):
            raise ConfigError(f"{at} must be MODULE:NAME, got {value!r}.")
        if name in own:
            split_place(at, value)
        if name in MEANINGLESS:
            raise ConfigError(f"{at}: {MEANINGLESS[name]}. Leave it out.")
        if name in DATA_OPTIONS | {"dataset"} and "data" in given:
            raise ConfigError(f"{at} has no effect beside `data`, which names the data itself.")
        if name == "batch_size" and value == "full":
            raise ConfigError(f"{at}: for a model of your own give the number of samples.")
    keywords = {
        name: (at, value)
        for name, (at, value) in given.items()
        if name not in own and (name not in Settings.model_fields or name in NETWORK_OPTIONS)
    }
    for at, value in keywords.values():
        if not isinstance(value, Keyword):
            raise ConfigError(f"{at} must be a number, string or boolean, got {value!r:.60}.")
    values = {name: value for name, (_, value) in given.items() if name not in keywords}
    for size in SIZES:
        value = keywords.get(law.get(size, size), ("", 1))[1]
        if type(value) is int and value >= 1:
            values[size] = value
    places = [(name, given[name][1]) for name in ("model", "data") if name in given]
    values["code"] = "+".join(code_of(name, place, folders) for name, place in places)
    if "data" in values:
        values["data_from"] = values.pop("data")
    values["keywords"] = {name: value for name, (_, value) in keywords.items()}
    return values | {"folders": folders}
