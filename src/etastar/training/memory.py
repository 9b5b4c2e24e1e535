"""How many replicas fit at once: the stack's size from the device's free memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from etastar.errors import ConfigError

if TYPE_CHECKING:
    import torch

SHARE = 0.5
"""Of the free memory that one stack may plan for: the rest is left to others and to fragments."""

MAX_REPLICAS = {"cpu": 16, "cuda": 4096}
"""Replicas beyond which a stack gains nothing: on a CPU the working set should stay in the cache
(`benchmarks/engine.py --sizes` measures it), on a GPU kernels are long enough by then."""


def free_bytes(device: torch.device) -> int:
    """Free memory of the device in bytes; on a CPU what the system says is available."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: assume that half of the physical memory is free
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 2**30  # a system that says nothing: any machine has so much


def check_fits(needed: int, device: torch.device, what: str) -> None:
    """Refuse what cannot fit in the memory that is free.

    Args:
        needed: Bytes.
        device: Where.
        what: What takes them, for the message.

    Raises:
        ConfigError: It does not fit.
    """
    free = free_bytes(device)
    if needed > free:
        raise ConfigError(
            f"{what} takes {needed / 2**30:,.1f} GiB, but only {free / 2**30:,.1f} GiB of memory "
            f"is free on {device}: choose a smaller width, depth or batch size."
        )


def stacks_that_fit(bytes_per_replica: int, device: torch.device, wanted: int) -> int:
    """How many stacks of one replica fit, at most `wanted`.

    Raises:
        ConfigError: Not even one does.
    """
    check_fits(bytes_per_replica, device, "training one network")
    return max(1, min(wanted, int(free_bytes(device) * SHARE) // max(1, bytes_per_replica)))


def replicas_that_fit(bytes_per_replica: int, device: torch.device, stacks: int = 1) -> int:
    """Size of each of `stacks` stacks: from 1 to `MAX_REPLICAS`, all in `SHARE` of free memory."""
    fitting = int(free_bytes(device) * SHARE) // max(1, bytes_per_replica * stacks)
    return max(1, min(fitting, MAX_REPLICAS.get(device.type, MAX_REPLICAS["cpu"])))
