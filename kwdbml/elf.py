"""Which shared libraries an ELF file asks for (its DT_NEEDED entries), read without tools that may be missing."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_SHT_DYNAMIC = 6
_DT_NULL, _DT_NEEDED = 0, 1


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand in one class of ELF file, and their formats for ``struct``."""

    table: tuple[int, str]  # e_shoff, where the section headers begin: offset and format
    counts: int  # offset of e_shentsize, which e_shnum follows
    section: str  # name, type, flags, addr, offset, size, link of a section header
    dynamic: str  # tag and value of an entry in a dynamic section


_BITS_32 = _Layout((32, "I"), 46, "IIIIIII", "iI")
_BITS_64 = _Layout((40, "Q"), 58, "IIQQQQI", "qQ")


def _needed(data: mmap.mmap) -> list[str]:
    if data[:4] != b"\x7fELF":
        raise ValueError("not an ELF file")
    layout = _BITS_64 if data[4] == 2 else _BITS_32
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + layout.table[1], data, layout.table[0])
    size, count = struct.unpack_from(order + "HH", data, layout.counts)
    sections = [struct.unpack_from(order + layout.section, data, table + i * size) for i in range(count)]
    names = []
    for _, kind, _, _, offset, length, link in sections:
        if kind != _SHT_DYNAMIC:
            continue
        strings = sections[link][4]
        for tag, value in struct.iter_unpack(order + layout.dynamic, data[offset : offset + length]):
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                start = strings + value
                names.append(data[start : data.find(b"\0", start)].decode())
    return names


def needed(path: Path) -> list[str]:
    """The file's DT_NEEDED names, in order; ValueError when it is no readable ELF file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _needed(data)
        except (struct.error, IndexError) as error:
            raise ValueError(f"{path}: damaged ELF file") from error
