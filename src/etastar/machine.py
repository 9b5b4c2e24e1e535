"""The machine that numbers are computed on: devices, threads, free memory, and their record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from etastar.errors import ConfigError

if TYPE_CHECKING:
    import torch

SHARE = 0.5
"""Of the free memory that one stack may plan for: the rest is left to others and to fragments."""

MAX_REPLICAS = {"cpu": 16, "cuda": 4096}
"""Replicas beyond which a stack gains nothing: on a CPU the working set should stay in the cache
(`benchmarks/engine.py --sizes` measures it), on a GPU kernels are long enough by then."""


@contextmanager
def use_threads(count: int | None) -> Iterator[int]:
    """PyTorch on so many threads inside the block, and on as many as before after it.

    Args:
        count: Threads; as many as now if None.

    Yields:
        The number in use.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def device_named(name: str) -> torch.device:
    """Return the device of that name, if this machine has it and numbers can be computed on it.

    Args:
        name: As PyTorch names devices: `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ConfigError: It has not, or they cannot.
    """
    import torch

    device = None
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        if device is None:
            reason = "PyTorch knows no device of that name"
        elif device.type == "meta":
            reason = "it holds shapes, not numbers"
        elif isinstance(error, (NotImplementedError, ImportError)):
            reason = "this build of PyTorch does not support it"
        raise ConfigError(
            f"`device={name!r}` cannot be used: {reason}. This machine has {' and '.join(_there())}"
            ": use `device='cpu'`."
        ) from None
    return device


def _there() -> list[str]:
    """Return the kinds of device that this machine has, as PyTorch names them."""
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, there in has.items() if there)]


def environment(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """Versions and machine, as far as they can change a result or its cost.

    Args:
        device: Where was computed.
        dtype: In which type.
        threads: On how many threads of the CPU.
    """
    import torch

    from etastar import __version__

    on_gpu = device.type == "cuda"
    return {
        "etastar": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
    }


def _processor() -> str:
    """The CPU's name. Linux gives it in /proc/cpuinfo only, where Python does not look."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line[:10] == "model name"]
    except OSError:
        names = []
    return next(filter(None, names), "") or platform.processor() or platform.machine()


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
