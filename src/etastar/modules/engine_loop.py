"""Engine 3: one trial at a time, with the user's own optimizer; all that trains, trains here."""

from __future__ import annotations

from etastar.modules.origin import Start
from etastar.modules.task import Run, Task, run_trial
from etastar.problem.trial import Outcome, Trial
from etastar.search import SearchQueue


class LoopEngine:
    """Runs a queue of trials, one after the other.

    Args:
        task: What is trained.
        starts: Seeds by the trials' `seed`.
    """

    useful_width = 1

    def __init__(self, task: Task, starts: list[Start]) -> None:
        self.task, self.starts = task, starts
        self._runs: dict[Trial, Run] = {}
        self.steps_taken = 0

    def run(self, queue: SearchQueue) -> None:
        """Train until the queue has nothing more."""
        while trials := queue.take(1):
            for trial in trials:
                run = run_trial(self.task, self.starts[trial.seed], trial.lr)
                self._runs[trial] = run
                self.steps_taken += run.step
                queue.put(trial, run.outcome(self.task.objective))

    def run_of(self, trial: Trial, outcome: Outcome) -> Run:
        """How a trial ended."""
        return self._runs[trial]
