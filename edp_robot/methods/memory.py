"""Refuses what this machine has no memory for, before it is filled."""

from __future__ import annotations

from pathlib import Path

GIB = 1 << 30
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryTooSmall(ValueError):
    """The machine has no memory for what was asked."""


def free_bytes() -> int | None:
    """Returns the free memory [bytes], at most the container's; None where nothing tells it."""
    found = [int(text) for text in map(_read, LIMITS) if text.isdigit()]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return min(found) if found else None


def _read(path: str) -> str:
    """Returns the text of a file, "" where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def require_memory(n_bytes: int, what: str, remedy: str) -> None:
    """Raises MemoryTooSmall where `n_bytes` are more than is free.

    Args:
        n_bytes: What is asked.
        what: What it is for, such as "a replay of 1,000 transitions".
        remedy: What to do.
    """
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise MemoryTooSmall(
            f"{what} takes {n_bytes / GIB:.1f} GiB, and {free / GIB:.1f} GiB of memory are free; "
            f"{remedy}"
        )
