"""What differs between a CPU and a CUDA device, in one place; the rest of the engine is the same code on both."""

from __future__ import annotations

import time

import psutil
import torch

from shared.errors import ConfigError

FREE_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.85}
"""What part of the free memory a KV cache takes when nobody says how much; the rest is for activations."""


def usable_device(name: str) -> torch.device:
    """The device called `cpu`, `cuda` or `cuda:N`. Raises `ConfigError` if torch has no such device here."""
    kind, _, number = name.partition(":")
    if kind not in FREE_MEMORY_SHARE or (number and not number.isdecimal()):
        raise ConfigError(f"--device {name}: choose cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use cpu or install torch for CUDA"
        )
    return torch.device(name)


def spare_memory(device: torch.device) -> int:
    """Bytes that a KV cache may take on the device as it is now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free * FREE_MEMORY_SHARE[device.type])


def has_bfloat16_products() -> bool:
    """Whether this CPU has matrix instructions for bfloat16; oneDNN is far quicker with them than any float32 sums, and slow without."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream for copies beside the model's kernels; a CPU has none (`torch.cuda.stream(None)` does nothing)."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class StepTimer:
    """Seconds that a device spent between its making and `stop`, however far ahead of the device the host runs."""

    def __init__(self, device: torch.device) -> None:
        self._events = _events(device)
        self._began = time.perf_counter()
        self._computed = -time.thread_time()
        self._ended = self._began

    def stop(self) -> None:
        """Marks the end of what was queued so far."""
        self._ended = time.perf_counter()
        self._computed += time.thread_time()
        if self._events is not None:
            self._events[1].record()

    @property
    def computing_s(self) -> float:
        """Seconds on a processor of the thread that made and stopped this; 0 where another device computes."""
        return self._computed if self._events is None else 0.0

    def wait(self) -> float:
        """Waits for the device to reach the end; returns the seconds it took."""
        if self._events is None:
            return self._ended - self._began
        start, end = self._events
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def _events(device: torch.device) -> tuple[torch.cuda.Event, torch.cuda.Event] | None:
    if device.type != "cuda":
        return None
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    return start, end
