"""The order in which a seed sees the training data: a pure function of the seed and the epoch."""

from __future__ import annotations

import torch


class DataOrder:
    """Permutations of the training set, one per seed and epoch, kept for the last few asked for.

    They are drawn on the CPU, whatever device they are kept on: the same everywhere.

    The recipe, for whoever wants to repeat it without this package: `g =
    torch.Generator().manual_seed(2 * seed + 1)`; epoch e uses the (e+1)-th draw of
    `torch.randperm(samples, generator=g)`. Batches are consecutive slices; a last one smaller than
    the batch size is dropped.
    """

    def __init__(self, samples: int, device: torch.device | None = None) -> None:
        self.samples, self.device = samples, device
        self._generators: dict[int, tuple[torch.Generator, int]] = {}
        self._kept: dict[tuple[int, int], torch.Tensor] = {}

    def permutation(self, seed: int, epoch: int) -> torch.Tensor:
        """Return the order of `epoch` (from 0) for `seed`: int64 `[samples]`."""
        key = (seed, epoch)
        if key not in self._kept:
            generator, drawn = self._generators.get(seed, (None, 0))
            if generator is None or drawn > epoch:
                generator, drawn = torch.Generator().manual_seed(2 * seed + 1), 0
            for _ in range(epoch - drawn + 1):
                order = torch.randperm(self.samples, generator=generator)
            self._generators[seed] = (generator, epoch + 1)
            self._kept[key] = order.to(self.device, non_blocking=True)
        return self._kept[key]

    def keep_only(self, keys: set[tuple[int, int]]) -> None:
        """Forget every permutation but these `(seed, epoch)` pairs, to bound the memory."""
        self._kept = {key: order for key, order in self._kept.items() if key in keys}
        seeds = {seed for seed, _ in keys}
        self._generators = {s: g for s, g in self._generators.items() if s in seeds}
