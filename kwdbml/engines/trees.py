"""Directories that hostile code has filled: removed, measured and read without following a link and without recursion.

Standard library only and light to import: the supervisor starts with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

#: More files than anybody needs, and as many as can be looked at every second.
MOST_ENTRIES = 200_000

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _open_directory(name: str, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        # An ordinary user's own directory whose mode was taken away. Nothing of the job lives by now, so the
        # name cannot become a link between these two calls.
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)


def _empty(name: str, parent: int, top: int, fresh: Iterator[str]) -> None:
    """Delete the files of ``parent/name`` and lift its directories to ``top`` under new names."""
    fd = _open_directory(name, parent)
    try:
        os.fchmod(fd, 0o700)
        with os.scandir(fd) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for child, is_directory in names:
            if is_directory:
                os.chmod(child, 0o700, dir_fd=fd)  # moving a directory needs the right to write into it
                os.rename(child, next(fresh), src_dir_fd=fd, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Delete ``path`` and everything below; no error when it is not there. Nothing may write there any more.

    Depth costs neither stack nor descriptors (a job can nest directories by the ten thousand, which ends
    shutil.rmtree with a RecursionError): a directory's directories are moved up to the top before it is removed.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        os.fchmod(top, 0o700)
        token = os.urandom(8).hex()  # names that nobody can have taken
        fresh = (f".kwdbml-{token}-{number}" for number in itertools.count())
        while names := os.listdir(top):
            for name in names:
                if stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                    _empty(name, top, top, fresh)
                    os.rmdir(name, dir_fd=top)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


@dataclass(slots=True)
class Measured:
    """Bytes on disk and entries of a tree; ``hidden``: a part of it could not be looked at."""

    size: int = 0
    entries: int = 0
    hidden: bool = False


def measure(path: str, limit: int, most_entries: int = MOST_ENTRIES) -> Measured:
    """The tree below ``path``; ends early when it holds more than ``limit`` bytes or ``most_entries``, or hides some.

    The tree may change while we look, also into links: we only add sizes up, so a wrong answer hurts its owner alone.
    """
    found = Measured()
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                for entry in listing:
                    found.entries += 1
                    with contextlib.suppress(FileNotFoundError):  # gone, which must not hide its neighbours
                        found.size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if found.size > limit or found.entries > most_entries:
                        return found
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone meanwhile
        except OSError:
            # An ordinary user's own directory without the right to read it, or a path longer than the kernel takes:
            # nobody needs either, and any amount could lie there.
            found.hidden = True
            return found
    return found


def disk_usage(path: str, limit: int, most_entries: int = MOST_ENTRIES) -> int | None:
    """Bytes on disk below ``path``; None when they are more than ``limit``, or hidden, or the entries too many."""
    found = measure(path, limit, most_entries)
    return None if found.hidden or found.size > limit or found.entries > most_entries else found.size


def open_beneath(root: str, relative: str, limit: int) -> int:
    """A descriptor of the regular file ``root/relative``, read-only; no part of ``relative`` may be a link.

    OSError when it is missing or a part is a link; ValueError (with a sentence) when it is no plain file, is longer
    than ``limit`` bytes, or goes by a second name (a hard link may be somebody else's file).
    """
    parts = relative.split("/")
    if not all(part and part not in (".", "..") for part in parts):
        raise ValueError(f"“{relative}” is no path below the outputs")
    current = os.open(root, _DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        # O_NONBLOCK: opening a FIFO that nobody writes to would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, dir_fd=current)
    finally:
        os.close(current)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        problem = "is not a plain file"
    elif found.st_nlink != 1:
        problem = "goes by a second name (a hard link)"
    elif found.st_size > limit:
        problem = f"has {found.st_size:,} bytes, more than the {limit:,} allowed"
    else:
        return fd
    os.close(fd)
    raise ValueError(f"“{relative}” {problem}")
