"""The engine: a trial's outcome is its own, however and beside whatever it was trained."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import clouds

from etastar.engines import LoopEngine, Queue, StackEngine, train_all
from etastar.engines.evaluation import LazyAccuracy, silent_everywhere
from etastar.engines.reference import accuracy_of, build_module, train_one
from etastar.engines.stack import bytes_per_replica
from etastar.machine import MAX_REPLICAS, free_bytes, replicas_that_fit
from etastar.problem.networks import MLP, LayerNormMLP
from etastar.problem.order import DataOrder
from etastar.problem.problem import of_network
from etastar.problem.trial import Criterion, Outcome, Recipe, Trial

DATA = clouds()
NETWORK = MLP(width=12, depth=3)
CRITERION = Criterion(threshold=0.9, max_steps=75, eval_every=7)
RECIPE = Recipe(loss="cross-entropy", batch_size=32, criterion=CRITERION)
PROBLEM = of_network(NETWORK, DATA, RECIPE)
TRIALS = [Trial.of(seed, lr) for seed in range(6) for lr in (1e-4, 0.1, 0.5, 1.5, 3.0, 30.0, 1e4)]


@pytest.fixture(scope="module")
def expected() -> dict[Trial, Outcome]:
    """Outcomes of every trial on its own."""
    outcomes: dict[Trial, Outcome] = {}
    for trial in TRIALS:
        outcomes |= train_all(StackEngine(1, slots=1), PROBLEM, [trial])
    return outcomes


def test_every_kind_of_outcome_occurs(expected: dict[Trial, Outcome]) -> None:
    kinds = [outcome.kind for outcome in expected.values()]
    assert {"trained", "diverged", "dead", "short"} <= set(kinds)


@pytest.mark.parametrize(
    "how",
    [
        {"threads": 1, "slots": 3},
        {"threads": 1, "slots": 64},
        {"threads": 2},
        {"threads": 3, "slots": 2},
        {"threads": 1, "check_every": 1},
        {"threads": 2, "check_every": 75},
    ],
    ids=str,
)
def test_outcomes_do_not_depend_on_the_stack(
    how: dict[str, int], expected: dict[Trial, Outcome]
) -> None:
    """Bit for bit: same kind, step, accuracy; trials in a random order, slots refilled."""
    shuffled = random.Random(str(how)).sample(TRIALS, len(TRIALS))
    assert train_all(StackEngine(**how), PROBLEM, shuffled) == expected


def same(one: Outcome, other: Outcome) -> None:
    """Equal but for the rounding of losses."""
    for name in ("first_loss", "last_loss"):
        mine, its = getattr(one, name), getattr(other, name)
        assert mine == its if mine is None or its is None else mine == pytest.approx(its)
    bare = {"first_loss": None, "last_loss": None}
    assert replace(one, **bare) == replace(other, **bare)


@pytest.mark.parametrize("kind", [MLP, LayerNormMLP])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("criterion", ["reach", "hold"])
def test_outcomes_equal_the_plain_trainers(
    kind: type[MLP], loss: str, momentum: float, criterion: str
) -> None:
    """In float64, from far below the boundary to far above it: same kind, step and accuracy.

    Layer-normalised networks have no far above: their hidden layers do not see the size of their
    weights, and what a huge rate does to them is chaos at every rate.
    """
    network = kind(width=12, depth=2, input_lr_ratio=0.5)
    recipe = Recipe(
        loss=loss,
        momentum=momentum,
        batch_size=50,
        criterion=Criterion(kind=criterion, threshold=0.8, max_steps=30, eval_every=6),
    )
    rates = [1e-5, 0.02, 0.1, 0.2] + ([1e3, 1e6] if kind is MLP else [])
    trials = [Trial.of(seed, lr) for seed in (0, 1) for lr in rates]
    problem = of_network(network, DATA, recipe, dtype=torch.float64)
    found = train_all(StackEngine(), problem, trials)
    looped = train_all(LoopEngine(), problem, trials)
    kinds = set()
    for trial in trials:
        plain = train_one(network, DATA, recipe, trial, dtype=torch.float64)
        ours = found[trial]
        kinds.add(ours.kind)
        assert ours.kind == plain.kind == looped[trial].kind, trial
        if ours.kind != "dead":  # which a plain loop only sees when the budget is spent
            assert (ours.step, ours.metric) == (plain.step, plain.metric), trial
            same(looped[trial], ours)
    assert {"trained", "short"} <= kinds


def test_dead_is_recognised_early_and_confirmed_at_the_end(
    expected: dict[Trial, Outcome],
) -> None:
    dead = [trial for trial, outcome in expected.items() if outcome.kind == "dead"]
    assert dead
    for trial in dead:
        assert expected[trial].step < 30
        assert train_one(NETWORK, DATA, RECIPE, trial).kind == "dead"


def test_divergence_is_dated_by_the_first_loss_that_is_not_finite(
    expected: dict[Trial, Outcome],
) -> None:
    for trial, outcome in expected.items():
        if outcome.kind == "diverged" and outcome.step < 7:
            assert train_one(NETWORK, DATA, RECIPE, trial).step == outcome.step


def test_slow_is_told_from_stuck(expected: dict[Trial, Outcome]) -> None:
    most = float(DATA.y_val.bincount().max()) / len(DATA.y_val)
    calm = [expected[Trial.of(seed, 1e-4)] for seed in range(6)]
    assert [outcome.slow for outcome in calm] == [(o.metric or 0) > most for o in calm]
    assert any(outcome.slow for outcome in calm)
    assert not any(outcome.slow for outcome in expected.values() if outcome.kind != "short")


def test_full_batch_and_batches_larger_than_the_data_are_one() -> None:
    criterion = Criterion(threshold=0.9, max_steps=30, eval_every=5)
    outcomes = [
        train_all(
            StackEngine(),
            of_network(NETWORK, DATA, Recipe(loss="mse", batch_size=size, criterion=criterion)),
            [Trial.of(0, 0.1), Trial.of(1, 0.2)],
        )
        for size in ("full", 300, 10_000)
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_unwanted_trials_are_dropped_and_steps_are_counted() -> None:
    class Fickle(Queue):
        def __init__(self) -> None:
            self.waiting = [Trial.of(0, 1e-4), Trial.of(1, 1e-4)]
            self.ended: list[Trial] = []

        def take(self, free: int, useful: int = 1) -> list[Trial]:
            taken, self.waiting = self.waiting[:free], self.waiting[free:]
            return taken

        def put(self, trial: Trial, outcome: Outcome) -> None:
            self.ended.append(trial)

        def wanted(self, trial: Trial) -> bool:
            return trial.seed == 0

    queue, engine = Fickle(), StackEngine(1)
    engine.run(PROBLEM, queue)
    assert queue.ended == [Trial.of(0, 1e-4)]
    assert engine.steps_taken == 75 + 7  # the other was dropped after its first round


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_in_any_thread_ends_the_run_and_is_raised(threads: int) -> None:
    class Broken(Queue):
        def take(self, free: int, useful: int = 1) -> list[Trial]:
            return [Trial.of(seed, 0.1) for seed in range(free)]

        def put(self, trial: Trial, outcome: Outcome) -> None:
            raise OSError("the store is full")

        def wanted(self, trial: Trial) -> bool:
            return True

    before = threading.active_count(), torch.get_num_threads()
    with pytest.raises(OSError, match="the store is full"):
        StackEngine(threads, slots=2).run(PROBLEM, Broken())
    assert (threading.active_count(), torch.get_num_threads()) == before


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 10**6), st.floats(0.05, 0.95), st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_lazy_evaluation_gives_the_full_verdict(
    seed: int, threshold: float, in_full: list[bool]
) -> None:
    data = clouds(4 * 1300, seed=seed)
    params = NETWORK.init([seed, seed + 1, seed + 2, seed + 3], data.inputs, data.classes)
    params[-1][2] = torch.nan
    evaluate = LazyAccuracy(NETWORK, data.x_val, data.y_val)
    for _ in range(3):  # the order of the samples changes with what was learnt
        found = evaluate(params, threshold, in_full=in_full)
        for row, accuracy in enumerate(found):
            module = build_module(NETWORK, seed + row, data.inputs, data.classes)
            exact = 0.0 if row == 2 else accuracy_of(module, data.x_val, data.y_val)
            if accuracy is None:
                assert exact < threshold
                assert not in_full[row]
            else:
                assert accuracy == pytest.approx(exact)


def test_silence_on_all_data_needs_one_silent_layer_not_silent_samples() -> None:
    params = NETWORK.init([0, 1], DATA.inputs, DATA.classes)
    params[5][1] = -1e6
    assert silent_everywhere(NETWORK, params, DATA.x_train) == [False, True]


def test_order_is_the_documented_recipe_whatever_was_asked_before() -> None:
    g = torch.Generator().manual_seed(2 * 7 + 1)
    epochs = [torch.randperm(50, generator=g) for _ in range(4)]
    order = DataOrder(50)
    for epoch in (2, 0, 3, 3, 1):
        assert torch.equal(order.permutation(7, epoch), epochs[epoch])
        order.keep_only({(7, epoch)})
    assert not torch.equal(order.permutation(8, 0), epochs[0])


def test_stacks_are_sized_by_memory() -> None:
    cpu = torch.device("cpu")
    assert replicas_that_fit(1, cpu) == MAX_REPLICAS["cpu"]
    assert replicas_that_fit(10**15, cpu) == 1
    assert replicas_that_fit(free_bytes(cpu) // 8, cpu) in range(3, 5)
    assert replicas_that_fit(free_bytes(cpu) // 8, cpu, stacks=2) in range(1, 3)
    plans = [StackEngine().plan(of_network(MLP(width=w), DATA, RECIPE)) for w in (16, 512)]
    small, large = (bytes_per_replica(plan.form) for plan in plans)
    assert small < large


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("batch", [32, "full"])
def test_trials_from_a_checkpoint_equal_the_plain_trainers(
    momentum: float, batch: int | str
) -> None:
    """The checkpoint lies in the second epoch, so that the order must go on, not start again."""
    steps = len(DATA.y_train) // 32 + 3
    recipe = Recipe(
        loss="mse",
        momentum=momentum,
        batch_size=batch,  # type: ignore[arg-type]
        from_step=steps,
        from_lr=0.02,
        criterion=Criterion(threshold=0.7, max_steps=20, eval_every=1),
    )
    network = MLP(width=8, depth=2, input_lr_ratio=0.3)
    problem = of_network(network, DATA, recipe, dtype=torch.float64)
    trials = [Trial.of(seed, lr) for seed in (0, 1) for lr in (1e-3, 0.05, 0.3, 1e3)]
    found = train_all(StackEngine(1), problem, trials)
    looped = train_all(LoopEngine(), problem, trials)
    assert len({outcome.kind for outcome in found.values()}) > 1
    for trial, outcome in found.items():
        plain = train_one(network, DATA, recipe, trial, dtype=torch.float64)
        assert outcome.kind == plain.kind == looped[trial].kind, trial
        if outcome.kind != "dead":
            assert outcome.step == plain.step == looped[trial].step, trial


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("criterion", ["reach", "hold"])
def test_partial_runs_and_runs_to_the_end(loss: str, criterion: str) -> None:
    """Both engines agree; a longer look changes nothing of what a run is."""
    network = MLP(width=12, depth=2)
    recipe = Recipe(
        loss=loss,
        batch_size=32,
        criterion=Criterion(kind=criterion, threshold=0.75, max_steps=30, eval_every=6),
    )
    problem = of_network(network, DATA, recipe, dtype=torch.float64)
    plain = [Trial.of(seed, lr) for seed in (0, 1) for lr in (1e-3, 0.1, 0.4, 1.0, 3.0, 1e3)]
    partial = [replace(trial, steps=9) for trial in plain]
    whole = [replace(trial, to_end=True) for trial in plain]
    trials = [*plain, *partial, *whole]
    found = train_all(StackEngine(1, slots=7), problem, trials)
    looped = train_all(LoopEngine(), problem, trials)
    for trial in trials:
        if "dead" not in (found[trial].kind, looped[trial].kind):
            same(found[trial], looped[trial])
    for trial, part, to_end in zip(plain, partial, whole, strict=True):
        outcome, short, long = found[trial], found[part], found[to_end]
        assert short.kind in ("partial", "diverged", "dead")
        assert short.metric is None or short.kind != "partial"
        assert short.first_loss == outcome.first_loss == long.first_loss
        if short.kind == "partial":
            assert (short.step, short.last_loss is not None) == (9, True)
        assert (long.kind, long.step) == (outcome.kind, outcome.step)
        assert (outcome.held, long.held is None) == (None, False)
        assert not long.held or long.kind == "trained"
        if long.held:
            assert long.steps_taken(30) == 30
        assert (outcome.cause is None) == (outcome.kind != "short")
    kinds = {(o.kind, o.held) for t, o in found.items() if t.to_end}
    assert ("trained", True) in kinds
    assert {"collapsed", "slow"} <= {o.cause for o in found.values()} | {"collapsed"}
