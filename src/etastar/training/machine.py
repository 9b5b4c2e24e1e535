"""The machine that numbers are computed on: its devices, PyTorch's threads, and their record."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from etastar.errors import ConfigError

if TYPE_CHECKING:
    import torch


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


def device_named(name: str, instead: str = "--device cpu") -> torch.device:
    """The device of that name, if this machine has it and numbers can be computed on it.

    Args:
        name: As PyTorch names devices: `cpu`, `cuda`, `cuda:1`, ...
        instead: How to ask for the CPU, for the message.

    Raises:
        ConfigError: It has not, or they cannot.
    """
    import torch

    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        if name.partition(":")[0] == "meta":
            reason = "it holds shapes, not numbers"
        elif isinstance(error, (NotImplementedError, ImportError)):
            reason = "this build of PyTorch does not support it"
        raise ConfigError(f"device {name!r} cannot be used: {reason}. Try {instead}.") from None
    return device


def versions() -> dict[str, str]:
    """Versions and platform, as far as they can change a result."""
    import torch

    from etastar import __version__

    return {
        "etastar": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def environment(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """Versions and machine, as far as they can change a result or its cost.

    Args:
        device: Where was computed.
        dtype: In which type.
        threads: On how many threads of the CPU.
    """
    import torch

    on_gpu = device.type == "cuda"
    return {
        **versions(),
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
