"""A bundle of user code, unpacked: its scripts, what they can import, and how they are called.

Two bundles live in one process (the pipeline's and the transformer's), and both may have a ``modules`` package or a
script of the same name. So each bundle's modules are in ``sys.modules`` and its directories on ``sys.path`` only while
its own code runs: every import and every call goes through :meth:`Bundle.active`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kwdbml.steps import archive, requirements
from kwdbml.steps.failure import BadBundle, CalledExit, script_of

#: Folders of a bundle that hold scripts (and, as the vendor has it, maybe their own requirements and modules).
SCRIPT_FOLDERS = ("pipeline", "training", "prediction")

#: The bundles that a job may have, as in/NAME.zip, and whose each is in messages.
BUNDLES = {
    "pipeline": "the pipeline bundle",
    "transformer": "the data-preparation bundle",
    "model": "the model bundle",
}


#: Of the version that a training is compared with: its bundles, as in/NAME.zip.
ACTIVE = {"model": "active-model", "transformer": "active-transformer"}
#: What they ask for is in/active-packages/: they run in a process of their own.
ACTIVE_PACKAGES = "active-packages"


class Bundle:
    """``root`` is where the ZIP lies unpacked; modules.zip is unpacked beside it, so ``root`` packs as it came."""

    def __init__(self, root: Path, what: str, folder: str) -> None:
        self.root = root
        self.what = what  # "the pipeline", for messages
        self._libraries = root.with_name(root.name + ".modules")
        libraries = (self._libraries / "wheels", self._libraries, self._libraries / "modules")
        self._paths = [str(path) for path in (root / folder, *libraries) if path.is_dir()]
        self._modules: dict[str, ModuleType] = {}
        self._scripts: dict[str, ModuleType] = {}
        self._is_active = False

    @classmethod
    def unpack(cls, zip_file: Path, root: Path, what: str, folder: str) -> Bundle:
        """Unpacked, its modules importable, its requirements seen to; BadBundle or MissingRequirement otherwise."""
        archive.unpack(zip_file, root, what=what)
        folders = [root, *(root / name for name in SCRIPT_FOLDERS)]
        libraries = root.with_name(root.name + ".modules")
        for path in (place / "modules.zip" for place in folders):
            if path.is_file():
                _unpack_modules(path, libraries, f"{what}'s {path.relative_to(root).as_posix()}")
        for path in (place / "requirements.txt" for place in folders):
            if path.is_file():
                requirements.check(path, libraries / "wheels", f"{what}'s {path.relative_to(root).as_posix()}")
        return cls(root, what, folder)

    def view(self, folder: str) -> Bundle:
        """The same bundle for the scripts of another folder: siblings of the same name are others there."""
        return Bundle(self.root, self.what, folder)

    @property
    def roots(self) -> list[Path]:
        """Where the user's frames in a traceback come from."""
        return [self.root, self._libraries]

    @property
    def data_path(self) -> str:
        """``data/``, made when missing."""
        path = self.root / "data"
        path.mkdir(exist_ok=True)
        return str(path)

    def has(self, script: str) -> bool:
        return (self.root / script).is_file()

    @contextmanager
    def active(self) -> Iterator[None]:
        """The bundle's directories are on the path, its modules loaded, its ``sys.exit`` an error."""
        if self._is_active:
            yield
            return
        before = dict(sys.modules)
        sys.modules.update(self._modules)
        sys.path[:0] = self._paths
        importlib.invalidate_caches()
        self._is_active = True
        try:
            yield
        except SystemExit as error:
            code = "" if error.code is None else repr(error.code)
            place = script_of(error, self.roots) or self.what
            raise CalledExit(f"{place} called sys.exit({code})").with_traceback(error.__traceback__) from None
        finally:
            self._is_active = False
            self._leave(before)

    def _leave(self, before: dict[str, ModuleType]) -> None:
        """Take our modules and paths away, and give other modules of these names their place back."""
        for path in self._paths:
            if path in sys.path:
                sys.path.remove(path)
        new = [(name, module) for name, module in sys.modules.items() if before.get(name) is not module]
        self._modules = {name: module for name, module in new if self._owns(module)}
        for name in self._modules:
            del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]

    def _owns(self, module: ModuleType) -> bool:
        """Modules of this bundle's files; what a wheel with compiled code brought stays, it cannot be loaded twice."""
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
        ours = tuple(f"{root}/" for root in self.roots)
        wheels = f"{self._libraries}/wheels/"
        return any(str(place).startswith(ours) and not str(place).startswith(wheels) for place in places if place)

    def script(self, path: str) -> ModuleType:
        """The script as a module under its own name (a pickled class of train.py is ``train.NAME``), loaded once."""
        if path not in self._scripts:
            file = self.root / path
            spec = importlib.util.spec_from_file_location(file.stem, file)
            if spec is None or spec.loader is None:
                raise BadBundle(f"{self.what} has no {path}")
            with self.active():
                module = importlib.util.module_from_spec(spec)
                sys.modules[file.stem] = module
                spec.loader.exec_module(module)
            self._scripts[path] = module
        return self._scripts[path]

    def function(self, path: str, name: str) -> Callable[..., Any] | None:
        """The script's function, to be called through :meth:`call`; None when the script has none of that name."""
        found = getattr(self.script(path), name, None)
        return found if callable(found) else None

    def required(self, path: str, name: str) -> Callable[..., Any]:
        function = self.function(path, name)
        if function is None:
            raise BadBundle(f"{path} has no function {name}")
        return function

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.active():
            return function(*args, **kwargs)


def _unpack_modules(zip_file: Path, libraries: Path, what: str) -> None:
    """``.py`` files become the package ``modules``; wheels are unpacked side by side, as an installer would."""
    target = libraries / "modules"
    archive.unpack(zip_file, target, what=what)
    if (target / "modules").is_dir() and not any(target.glob("*.py")):  # zipped with its folder
        inner = (target / "modules").rename(target / ".inner")
        # Copied where a kernel does not let us rename into another directory (kwdbml.steps.pod_hide).
        shutil.copytree(inner, target, copy_function=shutil.move, dirs_exist_ok=True)
        shutil.rmtree(inner)
    for wheel in sorted(target.rglob("*.whl")):
        archive.unpack(wheel, libraries / "wheels", what=f"{what}: {wheel.name}")
        wheel.unlink()


def takes(function: Callable[..., Any], parameter: str) -> bool:
    """Whether the function has that parameter, or takes any by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return parameter in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def positional(function: Callable[..., Any]) -> int:
    """How many arguments the function needs by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
