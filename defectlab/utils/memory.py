"""Memory that this process may still take: of the machine, of its cgroup, of `ulimit -v`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def free_memory() -> int | None:
    """Return the bytes that can be had without swapping; None where the system does not tell."""
    found = [free for free in (_free_in_machine(), _free_in_cgroup(), free_addresses()) if free is not None]
    return min(found, default=None)


def free_addresses() -> int | None:
    """Return the bytes below the limit of `ulimit -v`, which mapped files count in, too; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        used = 0
    return max(0, limit - used)


def bytes_text(count: int) -> str:
    """Return a number of bytes for messages, such as `1.5 GiB`."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {_UNITS[unit]}" if size < 1000 else f"{size:.0f} {_UNITS[unit]}"


def _free_in_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _free_in_cgroup() -> int | None:
    """Return the least that this process's group and those above it have left; pages of files can be dropped."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for number, controllers, place in (line.split(":", 2) for line in lines):
        if number == "0":
            top, limit, used, pages = _CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            top = _CGROUPS / "memory"
            limit, used, pages = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = top / place.lstrip("/")
        for group in (folder, *folder.parents):
            if group != top and top not in group.parents:
                break
            try:
                stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
                most, now = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
                found.append(max(0, most - now + int(stat.get(pages, 0))))
            except (OSError, ValueError):  # no such group in a container, or `max`
                continue
    return min(found, default=None)
