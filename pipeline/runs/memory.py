"""Memory at hand, and the one check that keeps a fit or a file from asking for more."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from pipeline.errors import InputError

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Bytes that this process may still take: free memory of the machine, its container and its own limit."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    free = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    bounds += [int(kilobytes) * 1024 for kilobytes in free]
    for limit, used in CGROUPS:
        numbers = [line.strip() for path in (limit, used) for line in _lines(path)]
        if len(numbers) == 2 and all(map(str.isdecimal, numbers)):
            bounds.append(max(0, int(numbers[0]) - int(numbers[1])))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        taken = [int(line.split()[0]) * os.sysconf("SC_PAGE_SIZE") for line in _lines("/proc/self/statm")]
        bounds.append(max(0, address_space - sum(taken)))
    return min(bounds)


def check_memory(what: str, needed: float, remedy: str) -> None:
    """Refuse what needs more memory than there is, before it is tried.

    Raises
    ------
    InputError
        With both figures and the remedy.
    """
    available = available_bytes()
    if needed > available:
        raise InputError(f"{what}: needs about {in_words(needed)} of memory, {in_words(available)} are free; {remedy}")


def in_words(size: float) -> str:
    """Bytes for people.

    >>> in_words(1536), in_words(2.5e10)
    ('1.5 kB', '25 GB')
    >>> in_words(10**40)
    'more than 1,000 EB'
    """
    if size >= 1e21:
        return "more than 1,000 EB"
    for unit, name in ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.2g} {name}" if size < 10 * unit else f"{size / unit:,.0f} {name}"
    return f"{size:.0f} bytes"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
