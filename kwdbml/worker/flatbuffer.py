"""As much of FlatBuffers as Arrow's messages need, for bytes that a stranger wrote.

Nothing is followed that was not asked for, so that no loop and no depth of theirs decides how much work this is, and
every position is checked by ``struct`` against the one ``bytes`` in which all of it happens. Malformed: ``Damaged``.

A table begins with the distance back to its vtable, which has the size of itself, of the table, and one 16-bit offset
per field (0: not there). https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from typing import Self


class Damaged(Exception):
    """What was read is not what it should be."""


class Table:
    """A table at ``at`` in ``data``; fields are numbered as in Arrow's .fbs files."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._number("<i", at)
        self._fields = (self._number("<H", self._vtable) - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> Self:
        return cls(data, _number(data, "<I", 0))

    def number(self, field: int, kind: str) -> int:
        """A number that ``struct`` would call ``kind``; 0 when it is not there, as the default is."""
        at = self._field(field)
        return self._number(kind, at) if at else 0

    def has(self, field: int) -> bool:
        return bool(self._field(field))

    def table(self, field: int) -> Table:
        return Table(self._data, self._target(field))

    def tables(self, field: int, count: int) -> list[Table]:
        """A vector of exactly so many tables."""
        first = self._vector(field, count)
        return [Table(self._data, at + self._number("<I", at)) for at in range(first, first + 4 * count, 4)]

    def pairs(self, field: int, count: int) -> list[tuple[int, int]]:
        """A vector of exactly so many structs of two 64-bit numbers."""
        first = self._vector(field, count)
        whole = self._data[first : first + 16 * count]
        if len(whole) != 16 * count:
            raise Damaged("a vector ends beyond its message")
        return list(struct.iter_unpack("<qq", whole))

    def _vector(self, field: int, count: int) -> int:
        at = self._target(field)
        found = self._number("<I", at)
        if found != count:
            raise Damaged(f"{found} entries where {count} belong")
        return at + 4

    def _target(self, field: int) -> int:
        at = self._field(field)
        if not at:
            raise Damaged("a part of a message is missing")
        return at + self._number("<I", at)

    def _field(self, field: int) -> int:
        """Where it is; 0 when it is not there."""
        offset = self._number("<H", self._vtable + 4 + 2 * field) if field < self._fields else 0
        return self._at + offset if offset else 0

    def _number(self, kind: str, at: int) -> int:
        return _number(self._data, kind, at)


def _number(data: bytes, kind: str, at: int) -> int:
    if at < 0:  # struct would count from the end
        raise Damaged("a position before its message")
    try:
        found: int = struct.unpack_from(kind, data, at)[0]
    except struct.error:
        raise Damaged("a position beyond its message") from None
    return found
