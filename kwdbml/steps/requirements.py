"""``requirements.txt`` of a bundle: what is satisfied is fine, the rest is a clear error.

The worker reads it too, before the job starts, and may install what is missing (``kwdbml.worker.packages``).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kwdbml.steps.failure import BadBundle, MissingRequirement

_HASH = re.compile(r"\s--hash[= ](\S+)")
_COMMENT = re.compile(r"(^|\s)#.*$")
#: What a line may be when it is written anew: nothing an installer could take for an option, a path or a variable.
_VERSION = r"[<>=!~]=?=?[A-Za-z0-9.+!*_-]+"
_PLAIN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?({_VERSION}(,{_VERSION})*)?")
_DIGEST = re.compile(r"(md5|sha224|sha256|sha384|sha512):[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Line:
    """One package that a requirements.txt asks for."""

    requirement: Requirement
    hashes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def text(self) -> str:
        """Name, extras and versions: no marker (it has been looked at), no hash."""
        extras = f"[{','.join(sorted(self.requirement.extras))}]" if self.requirement.extras else ""
        return f"{self.requirement.name}{extras}{self.requirement.specifier}"


def decoded(content: bytes, name: str) -> str:
    """The text of a requirements.txt."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadBundle(f"{name} is not UTF-8 text") from error


def lines(text: str, name: str) -> Iterator[Line]:
    """What is asked for on this machine: lines of name, version, marker and hash; anything else (options, paths, URLs)
    is BadBundle."""
    for raw in re.sub(r"\\\r?\n", " ", text).splitlines():
        bare = _COMMENT.sub("", raw)
        line = _HASH.sub("", bare).strip()
        if not line:
            continue
        refusal = f"{name}: {line!r} is not a package's name, version and hash"
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise BadBundle(refusal) from error
        if requirement.url:
            raise BadBundle(f"{name}: {line!r} is an address; only a package's name, version and hash are taken")
        found = Line(requirement, tuple(_HASH.findall(bare)))
        if not _PLAIN.fullmatch(found.text) or not all(map(_DIGEST.fullmatch, found.hashes)):
            raise BadBundle(refusal)
        if _applies(requirement, refusal):
            yield found


def _applies(requirement: Requirement, refusal: str) -> bool:
    try:
        return requirement.marker is None or requirement.marker.evaluate()
    except (ValueError, KeyError) as error:  # a comparison of what cannot be compared, a name that does not exist
        raise BadBundle(refusal) from error


def unmet(asked: Iterable[Line], version_of: Callable[[str], str | None]) -> dict[Line, str]:
    """The lines that are not satisfied, with the reason for people."""
    found = {}
    for line in asked:
        version = version_of(line.requirement.name)
        if version is None:
            found[line] = f"{line.requirement} (not installed)"
        elif not line.requirement.specifier.contains(version, prereleases=True):
            found[line] = f"{line.requirement} (installed: {version})"
    return found


def missing(by_file: Mapping[str, Iterable[str]]) -> MissingRequirement:
    """The error for what is not here, by the name of the file that asks for it."""
    told = [f"{name} asks for what is not here: {', '.join(reasons)}" for name, reasons in by_file.items()]
    return MissingRequirement(
        "; ".join(told),
        hint="nothing is downloaded here: put the packages' .whl files into the bundle's modules.zip",
    )


def check(file: Path, wheels: Path | None, name: str) -> None:
    """MissingRequirement unless every line is installed here (the worker may have installed it for this job), or came
    as a wheel in modules.zip."""
    asked = lines(decoded(file.read_bytes(), name), name)
    reasons = unmet(asked, lambda package: _in_wheels(package, wheels) or installed(package))
    if reasons:
        raise missing({name: reasons.values()})


def _in_wheels(name: str, wheels: Path | None) -> str | None:
    if wheels is not None:
        for distribution in importlib.metadata.distributions(path=[str(wheels)]):
            if canonicalize_name(distribution.metadata["Name"]) == canonicalize_name(name):
                return distribution.version
    return None


def installed(name: str) -> str | None:
    """The version that Python finds on its path, which is the runtime's own where it has one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # xgboost comes under two names: the one for CPUs is the same library.
        return installed(f"{name}-cpu") if name in ("xgboost", "tensorflow") else None
