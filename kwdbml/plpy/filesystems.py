"""``settings.fs`` and ``settings.extraFS``: which shared file systems a run sees, and where.

What their names mean, and who may use them, is rows of ``kwdbml.file_system``: ``kwdbml._placement`` looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kwdbml.errors import FeatureNotSupported, InvalidParameter
from kwdbml.plpy import as_shown

#: Everywhere else an image may keep what runs in it, or Kubernetes and Kubeflow Pipelines what is theirs.
PLACES = ("data", "home", "media", "mnt", "srv")
_KEYS = ("name", "mountPath", "subPath", "readOnly")
_MOST = 64  # file systems of one run


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One of them, as a job asks for it."""

    name: str
    path: str
    sub_path: str = ""


def one(key: str, value: Any) -> FileSystem:
    """A checked file system. 22023 names the key and the cure; 0A000 for readOnly."""
    if not isinstance(value, dict):
        raise InvalidParameter(
            f"{key} is not a file system: {as_shown(value)}",
            hint='For example {"name": "shared", "mountPath": "/mnt/shared"}.',
        )
    unknown = set(value) - set(_KEYS)
    if unknown:
        raise InvalidParameter(f'unknown key "{as_shown(min(unknown))}" in {key}', hint=f"Keys: {', '.join(_KEYS)}.")
    for needed in ("name", "mountPath"):
        if not isinstance(value.get(needed), str) or not value[needed].strip():
            raise InvalidParameter(f"{key} has no {needed}", hint=f'Add "{needed}" as a text.')
    _check_writable(key, value)
    return FileSystem(value["name"], _path(key, value["mountPath"]), _sub_path(key, value.get("subPath", "")))


def several(key: str, value: Any) -> list[FileSystem]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise InvalidParameter(
            f"{key} is not a list of at most {_MOST} file systems: {as_shown(value)}",
            hint='For example [{"name": "shared", "mountPath": "/mnt/shared"}].',
        )
    return [one(f"{key}[{n}]", each) for n, each in enumerate(value)]


def check_apart(wanted: list[FileSystem]) -> None:
    """22023 when two are to be at one place."""
    seen: dict[str, FileSystem] = {}
    for each in wanted:
        if each.path in seen:
            raise InvalidParameter(
                f'two file systems at "{each.path}": "{seen[each.path].name}" and "{each.name}"',
                hint="Give each a mountPath of its own.",
            )
        seen[each.path] = each


def _check_writable(key: str, value: dict[str, Any]) -> None:
    read_only = value.get("readOnly", False)
    if not isinstance(read_only, bool):
        raise InvalidParameter(
            f"{key}.readOnly is not true or false: {as_shown(read_only)}", hint="Give true or false."
        )
    if read_only:
        raise FeatureNotSupported(
            f'Kubeflow Pipelines cannot mount "{as_shown(value["name"])}" read-only',
            hint="Leave readOnly out; to protect the data, an admin can name a volume that nobody may write "
            "(access mode ReadOnlyMany) in kwdbml.file_system.",
        )


def _path(key: str, path: str) -> str:
    """Without slashes at its end."""
    parts = path.rstrip("/").split("/")
    if parts[0] or len(parts) < 2 or not _plain(parts[1:], path) or ":" in path or parts[1] not in PLACES:
        raise InvalidParameter(
            f'"{as_shown(path)}" is no place for {key}',
            hint=f"mountPath is an absolute path without . and .., below {', '.join(f'/{place}' for place in PLACES)}.",
        )
    return "/".join(parts)


def _sub_path(key: str, path: Any) -> str:
    if not isinstance(path, str) or (path and not _plain(path.split("/"), path)):
        raise InvalidParameter(
            f'"{as_shown(path)}" is no directory of {key}', hint="subPath is a relative path without . and .."
        )
    return path


def _plain(parts: list[str], path: str) -> bool:
    """No part is empty or leads elsewhere; and nothing that Argo would replace or a terminal would act upon."""
    return all(part not in ("", ".", "..") for part in parts) and "{{" not in path and path.isprintable()
