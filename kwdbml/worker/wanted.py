"""What the bundles of a job ask for in requirements.txt, read out of the ZIPs without unpacking them.

The bundles are strangers' files: everything here is bounded, and what is wrong with a bundle otherwise is the step's
to tell.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from kwdbml.steps import requirements
from kwdbml.steps.bundle import ACTIVE, BUNDLES, SCRIPT_FOLDERS
from kwdbml.steps.failure import BadBundle, MissingRequirement
from kwdbml.steps.requirements import Line

#: The bundles of the version that a training is compared with.
OF_ACTIVE = {name: f"{BUNDLES[kind]} of the active version" for kind, name in ACTIVE.items()}

_MOST_TEXT = 256 << 10  # bytes of a requirements.txt
_MOST_MODULES = 1 << 30  # bytes of a modules.zip
_MOST_DIRECTORY = 8 << 20  # bytes of its table of contents: some 100,000 files
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)
_FOLDERS = ("", *(f"{folder}/" for folder in SCRIPT_FOLDERS))


@dataclass(frozen=True, slots=True)
class Wanted:
    """``lines`` of all bundles that an installer looks at together; ``unmet`` of them, with reasons, by file."""

    lines: tuple[Line, ...]
    unmet: dict[str, dict[Line, str]]

    @property
    def fixed(self) -> bool:
        """Whether something is asked for in another version than the runtime's, which comes first in any case."""
        return any(requirements.installed(line.name) is not None for reasons in self.unmet.values() for line in reasons)

    def missing(self) -> MissingRequirement:
        return requirements.missing({name: reasons.values() for name, reasons in self.unmet.items()})


def read(inputs: Path, bundles: Mapping[str, str] = BUNDLES) -> Wanted:
    """BadBundle for a line that is not to be installed. ``bundles``: whose each is, by name. Blocks."""
    asked: dict[Line, None] = {}
    unmet: dict[str, dict[Line, str]] = {}
    for kind, owner in bundles.items():
        for name, lines, versions in _files(inputs / f"{kind}.zip", owner):
            reasons = requirements.unmet(lines, _Versions(versions).of)
            if reasons:
                unmet[name] = reasons
            asked |= dict.fromkeys(line for line in lines if line in reasons or _of_the_runtime(line, versions))
    return Wanted(tuple(asked), unmet)


@dataclass(frozen=True, slots=True)
class _Versions:
    wheels: dict[str, str]

    def of(self, name: str) -> str | None:
        return self.wheels.get(canonicalize_name(name)) or requirements.installed(name)


def _of_the_runtime(line: Line, versions: dict[str, str]) -> bool:
    """Not satisfied by a wheel of the bundle's own, nor by a library of another name."""
    if line.name in versions:
        return False
    try:
        return bool(importlib.metadata.version(line.name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _files(path: Path, owner: str) -> Iterator[tuple[str, list[Line], dict[str, str]]]:
    """The requirements files of a bundle: name, lines, and the versions that its own wheels bring."""
    found: list[tuple[str, list[Line]]] = []
    versions: dict[str, str] = {}
    try:
        with path.open("rb") as file, _opened(file) as bundle:
            for name in _there(bundle, "requirements.txt"):
                shown = f"{owner}'s {name}"
                text = requirements.decoded(_read(bundle, name, shown), shown)
                found.append((shown, list(requirements.lines(text, shown))))
            if any(lines for _, lines in found):
                for name in _there(bundle, "modules.zip"):
                    versions |= _wheels(bundle, name)
    except _BROKEN:
        return  # the step says what is wrong with it
    for shown, lines in found:
        yield shown, lines, versions


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    """BadZipFile also for a table of contents that is too large to load: it is a stranger's, and becomes objects."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    ends = [tail[match.start() + 12 : match.start() + 16] for match in re.finditer(b"PK\5\6", tail)]
    if b"PK\6\7" in tail or any(int.from_bytes(end, "little") > _MOST_DIRECTORY for end in ends):
        raise zipfile.BadZipFile("its table of contents is too large")
    return zipfile.ZipFile(file)


def _there(bundle: zipfile.ZipFile, name: str) -> list[str]:
    """The bundle's files of that name, where they count. Other methods of compression may need any amount of memory."""
    plain = {info.filename for info in bundle.infolist() if info.compress_type in _METHODS}
    return [path for path in (f"{folder}{name}" for folder in _FOLDERS) if path in plain]


def _read(bundle: zipfile.ZipFile, name: str, shown: str) -> bytes:
    with bundle.open(name) as file:
        content = file.read(_MOST_TEXT + 1)
    if len(content) > _MOST_TEXT:
        raise BadBundle(f"{shown} has more than {_MOST_TEXT >> 10} KiB")
    return content


def _wheels(bundle: zipfile.ZipFile, name: str) -> dict[str, str]:
    """Package → version of the wheels in a modules.zip, by their file names."""
    versions: dict[str, str] = {}
    with tempfile.TemporaryFile(prefix="kwdbml-") as copy:
        with bundle.open(name) as file:
            while chunk := file.read(1 << 20):
                copy.write(chunk)
                if copy.tell() > _MOST_MODULES:
                    return versions
        with _opened(copy) as modules:
            for member in modules.namelist():
                versions |= _package(member.rpartition("/")[2])
    return versions


def _package(file: str) -> dict[str, str]:
    try:
        name, version, _, _ = parse_wheel_filename(file)
    except (InvalidWheelFilename, InvalidVersion):
        return {}
    return {name: str(version)}
