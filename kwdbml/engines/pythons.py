"""Pythons beside the worker's own, in which a runtime of ``kwdbml.runtime`` may run here.

A row of the table names one; where it lies on this machine, whoever starts the worker says (``--python NAME=PATH``),
because no row of a database may choose what of the machine a sandbox sees. Each has kwdbml installed itself, in the
worker's version: between worker and step lie files whose form both must know.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kwdbml import __version__
from kwdbml.engines.sandbox import Python, Sandbox, readable, tool_env
from kwdbml.errors import EngineError

_SECONDS = 120.0  # the first import of what is not in the page cache yet
_LOOK = """
import json, os, sys
import kwdbml, kwdbml.steps.run
prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(kwdbml.__file__)]
print(json.dumps([kwdbml.__version__, sys.executable, [*prefixes, *filter(os.path.isdir, sys.path)]]))
"""


def look_at(pythons: Mapping[str, Path]) -> dict[str, Python]:
    """What each needs to be started. EngineError with the cure for one that cannot run a step. Blocks."""
    return {name: _look_at(name, path) for name, path in pythons.items()}


def _look_at(name: str, path: Path) -> Python:
    shown = f'Python "{name}" ({path})'
    command = [str(path.absolute()), "-I", "-c", _LOOK]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=tool_env(), cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{shown} cannot be started: {error}", hint="Give the path of its interpreter.") from error
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        cure = f"Install kwdbml {__version__} into it, with the libraries of the runtime."
        raise EngineError(f"{shown} cannot run jobs: {why}", hint=cure)
    version, executable, paths = json.loads(done.stdout.splitlines()[-1])
    if version != __version__:
        raise EngineError(
            f"{shown} has kwdbml {version}, this worker is {__version__}",
            hint=f"Install kwdbml {__version__} into it.",
        )
    return Python(executable, readable(paths))


def inside(box: Sandbox, python: Python) -> Sandbox:
    """The same sandbox around another Python."""
    return replace(box, python=python, runtime=python.paths)
