"""This machine: where runs keep their files, what shuts uploaded code in, what their memory is limited by, and uv."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from kwdbml import __version__
from kwdbml.doctor.checks import Check, Remark
from kwdbml.engines import cgroups, pythons, sandbox
from kwdbml.engines.local import default_root
from kwdbml.engines.watch import DISK_RESERVE
from kwdbml.errors import EngineError, WrongState
from kwdbml.settings import WorkerSettings
from kwdbml.worker.installer import uv_program

_CURE_OF_UNSAFE = "Start the worker without it unless you trust everyone who may upload code."
_NO_SANDBOX_OF_UV = "uv runs without a sandbox, as unsafe_no_sandbox says; it installs wheels, and runs none"
_FRAMEWORKS = {"xgboost": ("xgboost", "xgboost-cpu"), "lightgbm": ("lightgbm",)}


class Machine:
    """What the worker and its local engine use of this machine. The user who asks must be the worker's."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._scratch = (settings.scratch or default_root()).absolute()

    def checks(self) -> list[Check]:
        scratch = [
            Check("machine.scratch", self.scratch),
            Check("machine.space", self.space, ("machine.scratch",)),
        ]
        requirements = Check("requirements.uv", self.uv)
        if "local" not in self._settings.engine_names:
            return [*scratch, requirements, Check("requirements.sandbox", self.sandbox_of_uv, ("requirements.uv",))]
        return [
            *scratch,
            Check("local.bubblewrap", self.bubblewrap),
            Check("local.sandbox", self.sandbox, ("local.bubblewrap",)),
            Check("local.memory", self.memory),
            Check("local.python", self.python),
            *(Check(f"local.python.{name}", partial(self.other_python, name)) for name in self._settings.pythons),
            requirements,
        ]

    # -- files ---------------------------------------------------------------------------------------------------

    def scratch(self) -> str:
        try:
            self._scratch.mkdir(parents=True, exist_ok=True, mode=0o711)
            with tempfile.NamedTemporaryFile(dir=self._scratch, prefix=".doctor-") as file:
                file.write(b"x" * 4096)
                file.flush()
        except OSError as error:
            raise WrongState(
                f"{self._scratch} cannot be written: {error.strerror}",
                hint="Let the worker's user write there, or name another directory as KWDBML_SCRATCH.",
            ) from None
        return f"{self._scratch} can be written"

    def space(self) -> str | Remark:
        free = shutil.disk_usage(self._scratch).free
        wanted = int(self._settings.scratch_limit) * self._settings.concurrency
        cure = "Free some space, name another directory as KWDBML_SCRATCH, or lower KWDBML_SCRATCH_LIMIT."
        if free < 2 * DISK_RESERVE:
            raise WrongState(f"{_size(free)} are free below {self._scratch}: runs would be ended at once", hint=cure)
        if free < wanted:
            text = f"{_size(free)} are free below {self._scratch}, and the runs at once may write {_size(wanted)}"
            return Remark(text, cure)
        return f"{_size(free)} are free"

    # -- the sandbox ---------------------------------------------------------------------------------------------

    def bubblewrap(self) -> str | Remark:
        program = shutil.which("bwrap")
        if program is not None:
            return program
        cure = "Install it: apt install bubblewrap."
        if self._settings.unsafe_no_sandbox:
            return Remark("bubblewrap is not installed; not needed with unsafe_no_sandbox", cure)
        raise EngineError("bubblewrap is not installed: uploaded code is refused", hint=cure)

    def sandbox(self) -> str | Remark:
        """A Python is started inside, as a run would be: namespaces and all that are tried, not read about."""
        if self._settings.unsafe_no_sandbox:
            return Remark("uploaded code runs without a sandbox, as unsafe_no_sandbox says", _CURE_OF_UNSAFE)
        kind = sandbox.detect().kind
        return "it works" + (", each run as a user of its own" if kind == "root" else ", with a user namespace")

    def memory(self) -> str | Remark:
        found = cgroups.find_base()
        if found is not None:
            return f"limited by control groups, version {found[0]}"
        if not Path("/proc/self/smaps_rollup").exists():
            return Remark("there are no control groups, and /proc does not tell memory", "Mount /proc.")
        return "limited by watching it; there is no control group that this user may write"

    def python(self) -> str | Remark:
        text = f"Python {platform.python_version()}, scikit-learn {importlib.metadata.version('scikit-learn')}"
        there = {name: _version(names) for name, names in _FRAMEWORKS.items()}
        if missing := [name for name, version in there.items() if not version]:
            return Remark(
                f"{text}; without {', '.join(missing)}",
                f"For jobs that use it: pip install 'kwdbml[{','.join(missing)}]'.",
            )
        return ", ".join([text, *(f"{name} {version}" for name, version in there.items())])

    def other_python(self, name: str) -> str:
        """One that a row of kwdbml.runtime may name."""
        found = pythons.look_at({name: self._settings.pythons[name]})[name]
        return f"{found.executable} has kwdbml {__version__}"

    # -- requirements.txt ----------------------------------------------------------------------------------------

    def uv(self) -> str:
        if not self._settings.install_requirements:
            return "not needed: install_requirements is off"
        program = uv_program()
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise EngineError(f"{program} does not run: {done.stderr.strip()}", hint="pip install --force-reinstall uv")
        return done.stdout.strip()

    def sandbox_of_uv(self) -> str | Remark:
        """Without the local engine, bubblewrap is there for uv alone."""
        if self._settings.unsafe_no_sandbox:
            return Remark(_NO_SANDBOX_OF_UV, _CURE_OF_UNSAFE)
        if not self._settings.install_requirements:
            return "not needed: install_requirements is off"
        try:
            return f"it works ({sandbox.detect().kind})"
        except EngineError as error:
            return Remark(
                f"{error.message}: jobs that must install what their requirements.txt asks for fail",
                f"{error.hint[:1].upper()}{error.hint[1:]}. Or bring what is needed in the runtime image.",
            )


def _version(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _size(count: int) -> str:
    return f"{count / (1 << 30):,.1f} GiB"
