"""The variables that a step starts with: the same wherever it runs, and nothing of who started it.

Standard library only and light to import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import kwdbml


def environment(inside: str, threads: int, python: str | None = None) -> dict[str, str]:
    """All the variables that a step starts with. ``threads``: what its libraries take when nobody says otherwise;
    ``python``: another Python than ours, with a kwdbml of its own."""
    places = (str(Path(python or sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")
    env = {
        "PATH": os.pathsep.join(dict.fromkeys(places)),
        "HOME": f"{inside}/out/tmp",
        "TMPDIR": f"{inside}/out/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": "" if python else str(Path(package_path()).parent),
        # OpenMP's threads spin while they wait: two trainings on two cores would take ten times as long (measured).
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
        env[f"{library}_NUM_THREADS"] = str(threads)
    return env


def package_path() -> str:
    """Where kwdbml is installed."""
    return str(Path(str(kwdbml.__file__)).absolute().parent)
