"""Keeping files from the step that must run in the same container: the pod's Secret and its service-account token.

Landlock (Linux 5.13) lets a process give up the right to read all but what it names, with no privilege needed: every
directory is named but the hidden ones. Nothing else will do: a mounted Secret and the token are for everybody in the
container to read, whatever their user number. Landlock's first version (Linux 5.13 to 5.18) has one more effect: files
cannot be renamed or linked from one directory to another (EXDEV, as between file systems; ``shutil.move`` copies then).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_READ_FILE = 1 << 2
_REFER = 1 << 13  # to rename or link into another directory: from version 2 on, and denied where no rule grants it
_VERSION = 1  # a flag of _CREATE: make nothing, tell the version
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38


def no_new_privileges() -> None:
    """No program that is started from here on gets more rights than it has (sudo, setuid)."""
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)


def why_not() -> str:
    """Why ``hide`` cannot work on this kernel; empty when it can."""
    try:
        _version(ctypes.CDLL(None, use_errno=True).syscall)
    except OSError as error:
        return error.strerror or f"{error}"
    return ""


def hide(paths: Iterable[str]) -> None:
    """From here on this process and its children cannot read below ``paths``; OSError where the kernel has no way to
    do it. ``no_new_privileges`` must have been called."""
    hidden = {os.path.realpath(path) for path in paths if os.path.exists(path)}
    call = ctypes.CDLL(None, use_errno=True).syscall
    rights = _READ_FILE | (_REFER if _version(call) >= 2 else 0)
    handled = struct.pack("Q", rights)
    ruleset = _done(call(ctypes.c_long(_CREATE), handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0)))
    try:
        for path in _others("/", hidden):
            with contextlib.suppress(OSError):
                _allow(call, ruleset, path, rights if os.path.isdir(path) else _READ_FILE)
        _done(call(ctypes.c_long(_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)))
    finally:
        os.close(ruleset)


def _version(call: Any) -> int:
    return _done(call(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))


def _done(answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def _others(directory: str, hidden: set[str]) -> Iterator[str]:
    """All files and directories that neither are hidden nor lead to what is."""
    with os.scandir(directory) as entries:
        found = [entry.path for entry in entries if not entry.is_symlink()]
    for path in found:
        if any(one.startswith(path + "/") for one in hidden):
            yield from _others(path, hidden)
        elif path not in hidden:
            yield path


def _allow(call: Any, ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, fd)
        call(ctypes.c_long(_ADD), ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(fd)
