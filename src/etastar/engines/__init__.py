"""Room 3: engines, which train trials and tell how they ended.

`base.py` is the contract; a new engine is a file here and a line in `ENGINES`.
"""

from __future__ import annotations

from etastar.engines.base import Engine, Queue, TrialList, train_all
from etastar.engines.loop import LoopEngine
from etastar.engines.stack import StackEngine
from etastar.errors import ModelError, unknown_name, warn
from etastar.problem.problem import Problem

ENGINES: dict[str, type[Engine]] = {
    "stack": StackEngine,
    "loop": LoopEngine,
}
"""The quickest first: `auto` takes the first that does not refuse."""

ENGINE_NAMES = ("auto", *ENGINES)


def choose(
    problem: Problem, wanted: str = "auto", threads: int | None = None
) -> tuple[Engine, str]:
    """Return the quickest engine that can train a problem, or the one that is wanted.

    Args:
        problem: What is to be trained.
        wanted: A name in `ENGINES`, or `auto`.
        threads: CPU threads; if None, PyTorch's.

    Returns:
        The engine, and the reason for it in words.

    Raises:
        ModelError: The wanted engine cannot train this problem.
        ConfigError: There is no engine of that name.
    """
    if wanted == "vmap":
        warn("`engine='vmap'` is gone: the loop trains instead. Leave it out.", FutureWarning)
        wanted = "loop"
    if wanted not in ENGINE_NAMES:
        raise unknown_name("engine", str(wanted), ENGINE_NAMES)
    reasons: list[str] = []
    for name in ENGINES if wanted == "auto" else (wanted,):
        engine = ENGINES[name](threads)
        refusal = engine.refusal(problem)
        if refusal is None:
            told = "; ".join(reasons) or engine.why
            return engine, told if wanted == "auto" else "asked for"
        if wanted == name:
            raise ModelError(
                f"`engine={name!r}` cannot train this: {refusal}. Use `engine='auto'`."
            )
        reasons.append(refusal)
    raise ModelError(f"no engine can train this: {'; '.join(reasons)}.")


__all__ = [
    "ENGINES",
    "ENGINE_NAMES",
    "Engine",
    "LoopEngine",
    "Queue",
    "StackEngine",
    "TrialList",
    "choose",
    "train_all",
]
