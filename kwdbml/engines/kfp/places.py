"""Copies of runs' workspaces on this machine: directories below one root that engines of several workers may share.

    <root>/<slot>/in/ out/ ctl-<engine>/log.…
    <root>/ctl-<engine>.lock   that engine lives: it holds it (``procs.hold``)
    <root>/.lock               held for the moments in which a directory gets an owner or loses one
    <root>/gone-<engine>-…     is being deleted by that engine

A copy that no living engine owns can be made again from the object store, and is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import structlog

from kwdbml.engines import procs
from kwdbml.engines.trees import remove_tree
from kwdbml.errors import EngineError

log = structlog.get_logger()

_SLOT = re.compile(r"[0-9a-f]{16}")


def is_slot(text: object) -> bool:
    return isinstance(text, str) and bool(_SLOT.fullmatch(text))


class Places:
    """One engine's view of the root. What cannot be deleted is left to a later sweep, with a warning."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._own = f"ctl-{secrets.token_hex(8)}"
        self._life: int | None = None  # the descriptor of our lock
        self._left: set[Path] = set()

    def path(self, slot: str) -> Path:
        if not is_slot(slot):
            raise EngineError("this is no handle of the kubeflow engine")
        return self.root / slot

    def make(self, slot: str) -> Path:
        """A directory with us among its owners; our own part of it."""
        place = self.path(slot)
        own = place / self._own
        with self._alone():
            for path in (place / "in", place / "out" / "tmp", own):
                path.mkdir(parents=True, exist_ok=True)
        return own

    def close(self) -> None:
        """We own nothing any more: what is left of ours, anybody's next sweep deletes."""
        if self._life is not None:
            os.close(self._life)
            self._life = None
            with _warned(self._own):
                self._lock_of(self._own).unlink(missing_ok=True)

    def remove(self, slot: str) -> None:
        with _warned(slot):
            with self._alone():
                gone = self._aside(self.path(slot))
            self._delete(gone)

    def let_go(self, slot: str) -> None:
        """We are no owner of it any more; what has no other one is gone."""
        place = self.path(slot)
        with _warned(slot):
            with self._alone():
                gone = self._aside(place / self._own)
                if not any(place.glob("ctl-*")):
                    gone += self._aside(place)
            self._delete(gone)

    def sweep(self) -> None:
        """Delete the copies of engines that are gone."""
        with self._alone():
            names = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False))
            engines = {path.stem for path in self.root.glob("ctl-*.lock")}
            living = {name for name in engines if procs.is_held(str(self._lock_of(name)))}
            gone = [*self._left, *(self.root / name for name in names if _deleter(name) not in {None, *living})]
            for name in filter(is_slot, names):
                with _warned(name):
                    if living.isdisjoint(path.name for path in (self.root / name).glob("ctl-*")):
                        gone += self._aside(self.root / name)
            for name in engines - living:
                with _warned(name):
                    self._lock_of(name).unlink(missing_ok=True)
        self._delete(gone)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else gives a directory an owner meanwhile, or takes one away."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if self._life is None:
                self._life = procs.hold(str(self._lock_of(self._own)), {})
            yield
        finally:
            os.close(fd)

    def _lock_of(self, engine: str) -> Path:
        return self.root / f"{engine}.lock"

    def _aside(self, path: Path) -> list[Path]:
        """Out of everybody's way: one engine alone deletes it, and takes its time for that."""
        gone = self.root / f"gone-{self._own}-{secrets.token_hex(8)}"
        try:
            path.rename(gone)
        except FileNotFoundError:
            return []
        return [gone]

    def _delete(self, gone: list[Path]) -> None:
        for path in gone:
            self._left.discard(path)
            with _warned(path.name):
                try:
                    remove_tree(str(path))
                except OSError:
                    self._left.add(path)
                    raise


def _deleter(name: str) -> str | None:
    """The engine that deletes a directory of this name."""
    return name.removeprefix("gone-").rpartition("-")[0] if name.startswith("gone-") else None


@contextlib.contextmanager
def _warned(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("kubeflow.left", place=name, why=str(error))
