"""``requirements.txt`` where nothing can be downloaded: what is satisfied is fine, the rest is a clear error."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kwdbml.steps.failure import BadBundle, MissingRequirement

_HASH = re.compile(r"\s--hash[= ]\S+")
_COMMENT = re.compile(r"(^|\s)#.*$")


def requirements(text: str, name: str) -> Iterator[Requirement]:
    """Lines of name, version and hash; anything else (options, paths, URLs) is BadBundle."""
    for raw in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = _HASH.sub("", _COMMENT.sub("", raw)).strip()
        if not line:
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise BadBundle(f"{name}: {line!r} is not a package's name, version and hash") from error
        if requirement.url:
            raise BadBundle(f"{name}: {line!r} is an address; only a package's name, version and hash are taken")
        yield requirement


def check(file: Path, wheels: Path | None, name: str) -> None:
    """MissingRequirement unless every line is installed here, or came as a wheel in modules.zip."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadBundle(f"{name} is not UTF-8 text") from error
    missing = []
    for requirement in requirements(text, name):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = _installed(requirement.name, wheels)
        if version is None:
            missing.append(f"{requirement} (not installed)")
        elif not requirement.specifier.contains(version, prereleases=True):
            missing.append(f"{requirement} (installed: {version})")
    if missing:
        raise MissingRequirement(
            f"{name} asks for what is not here: {', '.join(missing)}",
            hint="nothing is downloaded here: put the packages' .whl files into the bundle's modules.zip",
        )


def _installed(name: str, wheels: Path | None) -> str | None:
    if wheels is not None:
        for distribution in importlib.metadata.distributions(path=[str(wheels)]):
            if canonicalize_name(distribution.metadata["Name"]) == canonicalize_name(name):
                return distribution.version
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # xgboost comes under two names: the one for CPUs is the same library.
        return _installed(f"{name}-cpu", None) if name in ("xgboost", "tensorflow") else None
