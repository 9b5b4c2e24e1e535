"""Every option of a measurement, once: the Python call, the command and study files all read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from etastar.checking import check_accuracy
from etastar.data import DATASETS, Dataset
from etastar.errors import ConfigError
from etastar.problem.losses import Loss
from etastar.problem.networks import NORMS, Network, build
from etastar.problem.networks.parametrization import BASE_WIDTH, Parametrization
from etastar.problem.trial import Criterion, Recipe
from etastar.search.search import (
    OF_THE_CURVE,
    RESOLUTION,
    SEEDS,
    STRATEGY_NAMES,
    Search,
    chosen_strategy,
)
from etastar.validation import OneOf, Options, validated

Positive: TypeAlias = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Rate: TypeAlias = Annotated[float | None, Field(gt=0.0, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int | None, Field(ge=1)]
"""Numbers that options may be; of the last two, None is the default."""


class Defaults(NamedTuple):
    """Criterion and budget that a data set gets where the user names none. All our choice."""

    threshold: float
    batch_size: int
    epochs: dict[str, float]
    """By loss: mse needs longer than cross-entropy to reach the same accuracy."""


# MNIST's and CIFAR-10's thresholds are the paper's. The other numbers are ours, so that networks of
# width 32 to 512 reach the threshold well within the budget somewhere in the default range.
DEFAULTS: dict[str, Defaults] = {
    "digits": Defaults(threshold=0.9, batch_size=128, epochs={"cross-entropy": 40, "mse": 80}),
    "mnist": Defaults(threshold=0.925, batch_size=128, epochs={"cross-entropy": 1, "mse": 12}),
    "fashion-mnist": Defaults(threshold=0.8, batch_size=128, epochs={"cross-entropy": 1, "mse": 8}),
    "cifar10": Defaults(threshold=0.34, batch_size=128, epochs={"cross-entropy": 5, "mse": 30}),
    "gaussians": Defaults(threshold=0.9, batch_size=128, epochs={"cross-entropy": 1, "mse": 2}),
}


BATCH_SIZE = 128
"""Of a data set of one's own."""
EVALUATIONS_PER_EPOCH, MOST_EVALUATIONS = 10, 50
"""Evaluations that are the default: so many per epoch, but no more than so many in all."""

NTK_END_LR = 1e4
"""Highest rate that may be tried under `ntk` by default."""
NETWORK_FIELDS = (
    *("width", "depth", "input_lr_ratio", "output_variance", "biases", "parametrization"),
)
"""Settings that are fields of the architecture under the same name."""
NETWORK_OPTIONS = {*NETWORK_FIELDS, "norm"}
"""Options that describe the network, and so cannot go with one that is given as an object."""
DATA_OPTIONS = {"data_dir", "train_size", "val_size"}
"""Options that describe the data set, and so cannot go with one that is given as an object."""

NO_FROM_STEP = "`from_lr` has no effect without `from_step`: leave it out, or give both."


class Settings(Options):
    """What to measure: data, network, training, criterion, search, machine.

    Field names are the command's options with underscores. `None` means the default of the data
    set and loss (`DEFAULTS`), or "all there is".
    """

    dataset: str = Field(
        "digits",
        description=f"Data set: {', '.join(DATASETS)}. digits and gaussians need no files.",
    )
    data_dir: str | None = None
    """Folder with the data set's files, as D/<dataset>/ or D itself; then nothing is downloaded.
    [default: $ETASTAR_DATA_DIR, else download]"""
    train_size: Count = None
    """Use the first so many training samples. [default: all]"""
    val_size: Count = None
    """Use the first so many validation samples. [default: all]"""

    width: int = Field(128, ge=1)
    """n: units per hidden layer."""
    depth: int = Field(4, ge=1)
    """L: number of hidden layers."""
    input_lr_ratio: Share = 1.0
    """κ: the input layer trains at κ times the learning rate; 0 freezes it."""
    output_variance: Share = 1.0
    """v: output weights are drawn from N(0, v/width)."""
    biases: bool = True
    """Trainable biases, initialised at zero."""
    norm: Annotated[str, OneOf("norm", NORMS)] = "none"
    """Normalisation before each ReLU."""
    parametrization: Parametrization = Field(
        "standard",
        description="How initial variances and layers' rates go with the width. ntk: Jacot et al. "
        f"2018. mup: Yang & Hu 2021 for SGD, standard at width {BASE_WIDTH}.",
    )

    loss: Loss = "cross-entropy"
    """Mean over samples; mse is half the squared distance to the one-hot target."""
    optimizer: Literal["sgd"] = "sgd"
    """Plain SGD, with momentum if that is given."""
    momentum: float = Field(0.0, ge=0.0, lt=1.0)
    """μ of heavy-ball momentum."""
    batch_size: int | Literal["full"] | None = None
    """Samples per step, or full. [default: 128]"""

    threshold: float | None = None
    """Validation accuracy that counts as trained, above 1/classes and at most 1. [default: by data
    set, e.g. 0.925 for mnist]"""
    epochs: Rate = None
    """Budget in passes over the training data. [default: by data set and loss]"""
    max_steps: Count = None
    """Budget in steps; with --epochs too, whichever ends first."""
    eval_every: Count = None
    """Steps between evaluations. [default: a tenth of an epoch, or a fiftieth of the budget if that
    is longer]"""
    criterion: Literal["reach", "hold"] = "reach"
    """reach: touch the threshold at any evaluation. hold: be at or above it when the budget ends.
    """
    from_step: int = Field(0, ge=0)
    """Measure the largest rate from the checkpoint after so many steps, instead of from
    initialisation."""
    from_lr: Rate = None
    """Learning rate of the steps up to that checkpoint. [default: half of η* at initialisation,
    which is then measured first]"""

    seeds: Count = Field(
        None, description=f"section, bisection: number of seeds. [default: {SEEDS}]"
    )
    first_seed: int = Field(0, ge=0, le=2**60)
    """The first seed; the others follow."""
    resolution: float | None = Field(
        None,
        ge=1e-4,
        allow_inf_nan=False,
        description="section, bisection: hi/lo of a bracket is at most 1 + resolution. "
        f"[default: {RESOLUTION:g}]",
    )
    start_lr: Positive = 1e-3
    """Lowest learning rate that may be tried."""
    end_lr: Positive = Field(
        10.0,
        description="Highest learning rate that may be tried. [default: 10; for ntk, whose rates "
        f"are divided by the fan-in, {NTK_END_LR:g}]",
    )
    strategy: Annotated[str | None, OneOf("strategy", STRATEGY_NAMES)] = None
    """curve: where a fresh initialisation trains, and a rate that is confirmed. section: scan from
    above and refine, one bracket per seed. bisection: the paper's. [default: curve; section with
    --seeds or --resolution]"""
    precision: Rate = None
    """curve: the 95 % interval of η* reaches at most the factor 1 + precision to either side.
    [default: 0.1]"""
    trials: Count = None
    """curve: most whole trials, beside confirming ones, which count where they fail. [default: 400]
    """
    budgets: Rate = None
    """curve: most steps, in whole trainings, all included. [default: no cap]"""
    confirm: int | None = Field(None, ge=0)
    """curve: fresh seeds that train at the recommended rate, 0 for none. [default: 20]"""
    round_size: Count = None
    """curve: trials that are placed at once. [default: 16]"""
    slow_edge: bool = False
    """curve: look for the rates that are too slow for the budget, too."""

    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type."""
    threads: Count = None
    """CPU threads. [default: all that PyTorch would use]"""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or 'full', got {self.batch_size}")
        if self.parametrization == "ntk" and "end_lr" not in self.model_fields_set:
            self.__dict__["end_lr"] = NTK_END_LR  # frozen for others
        if self.start_lr >= self.end_lr:
            raise ValueError(
                f"`start_lr` must be below `end_lr`, got {self.start_lr:g} and {self.end_lr:g}"
            )
        try:
            self.chosen_strategy  # noqa: B018 - raises if options exclude each other
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def chosen_strategy(self) -> str:
        """The strategy: as asked for, `section` beside its options, else `curve`.

        Raises:
            ConfigError: An option has no effect beside another.
        """
        return chosen_strategy(self.strategy, self.seeds, self.resolution, self._of_the_curve)

    @property
    def _of_the_curve(self) -> dict[str, Any]:
        """The options of the strategy `curve`, None where they were not given."""
        return {name: getattr(self, name) for name in OF_THE_CURVE}

    def bracketing(self) -> Settings:
        """Return the settings with the defaults of a search per seed filled in.

        Raises:
            ConfigError: The strategy is `curve`, or an option of it was given.
        """
        if self.strategy == "curve":
            raise ConfigError("`strategy='curve'` has no seeds: choose section or bisection here.")
        asked = self.strategy or "section"
        strategy = chosen_strategy(asked, self.seeds, None, self._of_the_curve)
        filled = {"strategy": strategy, "seeds": self.seeds or SEEDS}
        return self.model_copy(update={**filled, "resolution": self.resolution or RESOLUTION})

    @classmethod
    def checked(cls, **options: Any) -> Settings:
        """Settings from these options.

        Args:
            **options: Fields of this model.

        Raises:
            ConfigError: An option is unknown or out of range; one line that names it.
        """
        return validated(cls, options)

    def data(self, *, progress: bool = False) -> Dataset:
        """The data set that these settings name: see `etastar.data.load`.

        Args:
            progress: Show the progress of a download on standard error.
        """
        from etastar.data import load

        return load(self.dataset, **self.model_dump(include=DATA_OPTIONS), progress=progress)

    def network(self) -> Network:
        """The architecture that these settings describe."""
        return build(NORMS[self.norm], **{field: getattr(self, field) for field in NETWORK_FIELDS})

    def resolved(self, name: str | None = None) -> Settings:
        """Return the settings with the defaults of data set and loss filled in, where it has any.

        Args:
            name: The data set; the one of these settings if None.
        """
        known = DEFAULTS.get(name or self.dataset)
        if known is None:
            return self
        own: dict[str, Any] = {"threshold": known.threshold, "batch_size": known.batch_size}
        if self.max_steps is None:
            own["epochs"] = float(known.epochs[self.loss])
        missing = {name: value for name, value in own.items() if getattr(self, name) is None}
        return self.model_copy(update=missing)

    def told(self) -> dict[str, Any]:
        """Return the settings as the rows of a study show them."""
        return self.model_dump()

    def identity(self) -> dict[str, Any]:
        """Return those settings that a result may depend on."""
        return self.told()

    @property
    def title(self) -> str:
        """A short name that tells the cell of a study from others."""
        size = f"{self.width}×{self.depth}"
        scheme = "" if self.parametrization == "standard" else f" {self.parametrization}"
        return f"{size}{scheme} κ={self.input_lr_ratio:g} {self.loss} {self.dataset}"

    def search(self) -> Search:
        """Return how η* is looked for."""
        ends = self.start_lr, self.end_lr
        if self.chosen_strategy == "curve":
            asked = {k: value for k, value in self._of_the_curve.items() if value is not None}
            return Search(*ends, "curve", (self.first_seed,), None, **asked)
        seeds = tuple(range(self.first_seed, self.first_seed + (self.seeds or SEEDS)))
        return Search(*ends, self.chosen_strategy, seeds, self.resolution or RESOLUTION)

    def recipe(self, data: Dataset) -> Recipe:
        """How trials train on this data, every default filled in.

        Args:
            data: The data set: its name and size give the defaults.

        Raises:
            ConfigError: The threshold is outside (1/C, 1], or has no default for this data.
        """
        full = self.resolved(data.name)
        threshold = full.threshold
        if threshold is None:
            raise ConfigError(
                f"`threshold` has no default for data set {data.name!r}: give the validation "
                "accuracy that counts as trained."
            )
        guess = 1 / data.classes
        check_accuracy("threshold", threshold, guess, f"1/classes = {guess:g} (guessing)")
        share = data.commonest_share
        if threshold <= share:
            raise ConfigError(
                f"one class for all samples meets the threshold: the commonest is {share:.4g} of "
                f"the validation data of {data.name}, the threshold {threshold:g}, so a network "
                "that learns nothing would count as trained. Raise `threshold` above that share."
            )
        samples = len(data.y_train)
        batch = full.batch_size or BATCH_SIZE
        batch = "full" if batch == "full" or batch >= samples else batch
        per_epoch = 1 if batch == "full" else samples // batch
        epochs = full.epochs or (None if self.max_steps else 1.0)
        whole = max(1, round(epochs * per_epoch)) if epochs else None
        steps = min(filter(None, (whole, self.max_steps)))
        often = max(1, per_epoch // EVALUATIONS_PER_EPOCH, steps // MOST_EVALUATIONS)
        if self.from_step and self.from_lr is None:
            raise ConfigError(f"`from_step={self.from_step}` needs `from_lr`, the rate up to there")
        return Recipe(
            loss=self.loss,
            optimizer=self.optimizer,
            momentum=self.momentum,
            batch_size=batch,
            from_step=self.from_step,
            from_lr=self.from_lr if self.from_step else None,
            criterion=Criterion(
                kind=self.criterion,
                threshold=float(threshold),
                max_steps=steps,
                eval_every=min(self.eval_every or often, steps),
                epochs=epochs,
            ),
        )
