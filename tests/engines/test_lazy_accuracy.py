"""What a lazy evaluation reads, and in which order: a network that answers from a table."""

from __future__ import annotations

import pytest
import torch

from etastar.engines.evaluation import CHUNK, LazyAccuracy

SAMPLES = 2 * CHUNK + 200


class Table:
    """Sample i has input i; replica r is right on it where `right[r, i]`, and says what it read."""

    def __init__(self, right: torch.Tensor) -> None:
        self.right = right
        self.read: list[list[int]] = []

    def apply(self, params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        rows, samples = params[0][:, 0].long(), x[:, 0].long()
        self.read.append(samples.tolist())
        right = self.right[rows][:, samples]
        return torch.nn.functional.one_hot(right.long(), 2).float()


def evaluation(right: torch.Tensor) -> tuple[LazyAccuracy, Table, list[torch.Tensor]]:
    table = Table(right)
    x = torch.arange(SAMPLES, dtype=torch.float32)[:, None]
    labels = torch.ones(SAMPLES, dtype=torch.long)
    params = [torch.arange(len(right), dtype=torch.float32)[:, None]]
    return LazyAccuracy(table, x, labels), table, params  # type: ignore[arg-type]


def test_samples_that_were_often_wrong_are_asked_first_from_the_next_call_on() -> None:
    right = torch.ones(3, SAMPLES, dtype=torch.bool)
    right[0, 1100:] = False
    right[1, 1150:] = False
    right[:, 700] = False
    evaluate, table, params = evaluation(right)
    order = list(range(SAMPLES))
    mistakes = [0] * SAMPLES
    for call in range(10):
        if call in (1, 2, 4, 8):  # sorted anew, ties as they stood
            order.sort(key=lambda i: -mistakes[i])
        table.read.clear()
        found = evaluate(params, 0.0)
        assert found == [right[r].sum().item() / SAMPLES for r in range(3)]
        assert [len(chunk) for chunk in table.read] == [CHUNK, CHUNK, 200]
        assert [i for chunk in table.read for i in chunk] == order
        for i in range(SAMPLES):
            mistakes[i] += int((~right[:, i]).sum())
        right[2, 10 * call] = False  # something new to learn
        right[0, 1199 - call] = True
    assert order[0] == 700


def test_what_cannot_reach_the_threshold_is_not_read_on() -> None:
    right = torch.ones(3, SAMPLES, dtype=torch.bool)
    right[0, :600] = False  # at most 50 % right
    right[1, :601] = False  # less
    evaluate, table, params = evaluation(right)
    assert evaluate(params, 0.5, in_full=False) == [0.5, None, 1.0]
    assert [len(chunk) for chunk in table.read] == [CHUNK, CHUNK, 200]
    evaluate, table, params = evaluation(right)
    assert evaluate(params[0][[1]][None], 0.5, in_full=False) == [None]
    assert len(table.read) == 2  # 500 mistakes leave the verdict open, 601 do not
    evaluate, table, params = evaluation(right)
    assert evaluate(params[0][[1]][None], 0.5, in_full=[True]) == [599 / SAMPLES]
    assert len(table.read) == 3
    evaluate, table, params = evaluation(right)
    assert evaluate(params, 0.99, in_full=[False, True, False]) == [None, 599 / SAMPLES, 1.0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_output_that_is_not_finite_is_a_mistake(value: float) -> None:
    evaluate, table, params = evaluation(torch.ones(1, SAMPLES, dtype=torch.bool))
    plain = table.apply

    def broken(params: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        outputs = plain(params, x)
        outputs[:, :, 1][:, x[:, 0] < 30] = value
        return outputs

    table.apply = broken  # type: ignore[method-assign]
    assert evaluate(params, 0.0) == [(SAMPLES - 30) / SAMPLES]
