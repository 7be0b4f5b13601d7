"""The machine's processes as /proc shows them: what one is, and what descends from it.

Standard library only and light to import: supervisors, and the process that runs a step in a pod, start with it.
"""

from __future__ import annotations

import os


def stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; a name with spaces or brackets does no harm."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def descendants(pid: int) -> list[int]:
    """``pid`` and all that descends from it, parents first."""
    scan = None if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _children_by_scan()
    seen = [pid]
    known = {pid}
    for parent in seen:  # grows while we walk
        for child in _children(parent) if scan is None else scan.get(parent, ()):
            if child not in known:
                known.add(child)
                seen.append(child)
    return seen


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _children_by_scan() -> dict[int, list[int]]:
    """Children of every process, from all of /proc: for kernels without CONFIG_PROC_CHILDREN."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat(int(name))) is not None:
            tree.setdefault(int(fields[1]), []).append(int(name))
    return tree
