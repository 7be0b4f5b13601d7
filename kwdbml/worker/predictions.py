"""Reading ``predictions.arrow``, which came out of a sandbox: it may be anything.

A reader of Arrow files decompresses, follows dictionaries and nested types, asks extension types to read what describes
them, and allocates what a message says. So we read the file ourselves, and know only what ``kwdbml.steps.predict``
writes: columns of four types, batches of plain buffers, one after another. The metadata says where the buffers are;
of them, only what belongs to the rows that are wanted now is read, so that memory does not depend on what a file says.
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from kwdbml.errors import InvalidParameter
from kwdbml.worker.flatbuffer import Damaged, Table

HANDS_OFF = "It is written by kwdbml after your functions have returned: leave it alone."
MAGIC = b"ARROW1"
#: Of a message. A batch needs some 64 bytes per column, a schema some 200, and a table has 1,600 columns at most.
METADATA_LIMIT = 1 << 20
#: Of values in a batch that we make of theirs; of the texts in one row as well.
PIECE_LIMIT = 8 << 20
_TOO_MANY_ROWS = 1 << 40

_SCHEMA, _BATCH = 1, 3  # MessageHeader
_INT, _FLOAT, _TEXT, _BOOL = 2, 3, 5, 6  # Type
_DOUBLE = 2  # Precision


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of one batch: where its buffers are in the file. ``validity`` is None when no value is missing."""

    kind: pa.DataType
    validity: int | None
    values: int
    text: int = 0
    text_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: int
    columns: list[_Column]


class Predictions:
    """The rows of a file, from the first to the last. InvalidParameter for whatever is wrong with it."""

    def __init__(self, file: BinaryIO, columns: int) -> None:
        self._fd = file.fileno()
        self._columns = columns
        self._size = os.fstat(self._fd).st_size
        self._batches = self._read_batches()
        self._batch: _Batch | None = None
        self._row = 0  # of it, that comes next

    def take(self, most: int) -> pa.RecordBatch | None:
        """The next rows, at most so many; None when there are no more."""
        try:
            while self._batch is None or self._row == self._batch.rows:
                self._batch, self._row = next(self._batches, None), 0
                if self._batch is None:
                    return None
            rows = min(most, self._batch.rows - self._row, max(1, PIECE_LIMIT // (8 * self._columns)))
            piece = self._piece(self._batch, self._row, rows)
        except (Damaged, pa.ArrowException, OSError) as error:
            raise InvalidParameter(f"predictions.arrow is damaged: {error}", hint=HANDS_OFF) from None
        self._row += piece.num_rows
        return piece

    # -- what is where -------------------------------------------------------------------------------------------

    def _read_batches(self) -> Iterator[_Batch]:
        end = self._size - len(MAGIC)
        if self._size < 2 * len(MAGIC) or self._bytes(0, 8) != MAGIC + b"\0\0" or self._bytes(end, 6) != MAGIC:
            raise Damaged("it is no Arrow file, or not a whole one")
        schema, at = self._message(8)
        if schema is None or schema.number(1, "<B") != _SCHEMA or schema.number(3, "<q"):
            raise Damaged("it begins without a schema")
        kinds = self._kinds(schema.table(2))
        while True:
            message, at = self._message(at)
            if message is None:
                return
            body = message.number(3, "<q")
            if message.number(1, "<B") != _BATCH or not 0 <= body <= self._size - at:
                raise Damaged("a message is no batch, or longer than the file")
            yield self._described(message.table(2), kinds, at, body)
            at += body

    def _message(self, at: int) -> tuple[Table | None, int]:
        """The metadata of the message at a position and where it ends; None for the mark behind the last one."""
        mark, size = struct.unpack("<Ii", self._bytes(at, 8))
        if mark != 0xFFFFFFFF or not 0 <= size <= METADATA_LIMIT:
            raise Damaged("no message where one belongs, or too large a one")
        return (Table.root(self._bytes(at + 8, size)) if size else None), at + 8 + size

    def _kinds(self, schema: Table) -> list[pa.DataType]:
        return [_kind(field) for field in schema.tables(1, self._columns)]

    def _described(self, batch: Table, kinds: list[pa.DataType], start: int, size: int) -> _Batch:
        """Where a batch has its buffers: all of them within its body, and long enough for its rows."""
        rows = batch.number(0, "<q")
        if batch.has(3):
            raise Damaged("its batches are compressed")
        if not 0 < rows < _TOO_MANY_ROWS:
            raise Damaged(f"a batch of {rows} rows")
        nodes = batch.pairs(1, len(kinds))
        buffers = iter(batch.pairs(2, sum(3 if kind == pa.string() else 2 for kind in kinds)))

        def buffer(least: int) -> tuple[int, int]:
            offset, length = next(buffers)
            if not (0 <= offset <= size and least <= length <= size - offset):
                raise Damaged("a column's bytes are not all in its batch")
            return start + offset, length

        columns = []
        for kind, (length, missing) in zip(kinds, nodes, strict=True):
            if length != rows or not 0 <= missing <= rows:
                raise Damaged(f"a column of {length} rows, {missing} of them missing, in a batch of {rows}")
            validity, _ = buffer((rows + 7) // 8 if missing else 0)
            values, _ = buffer(_least(kind, rows))
            text = buffer(0) if kind == pa.string() else (0, 0)
            columns.append(_Column(kind, validity if missing else None, values, *text))
        return _Batch(rows, columns)

    # -- the rows ------------------------------------------------------------------------------------------------

    def _piece(self, batch: _Batch, first: int, rows: int) -> pa.RecordBatch:
        """So many rows of a batch, or fewer when their texts are long."""
        skip = first % 8  # bits are read from the beginning of a byte
        start = first - skip
        offsets = [self._offsets(c, start, skip + rows) if c.text_bytes else None for c in batch.columns]
        rows = _within_limit([o[skip:] for o in offsets if o is not None], rows)
        arrays = []
        for column, found in zip(batch.columns, offsets, strict=True):
            buffers = self._buffers(column, found, start, skip + rows, skip)
            arrays.append(pa.Array.from_buffers(column.kind, rows, buffers, offset=skip))
        piece = pa.record_batch(arrays, names=[f"t{i}" for i in range(len(arrays))])
        piece.validate(full=True)  # that texts are UTF-8
        return piece

    def _buffers(self, column: _Column, offsets: Any, start: int, rows: int, skip: int) -> list[Any]:
        """Arrow's buffers for rows from ``start``, which is a multiple of 8; the first ``skip`` are not looked at."""
        bits = (rows + 7) // 8
        validity = None if column.validity is None else pa.py_buffer(self._bytes(column.validity + start // 8, bits))
        if column.kind == pa.bool_():
            return [validity, pa.py_buffer(self._bytes(column.values + start // 8, bits))]
        if column.kind != pa.string():
            return [validity, pa.py_buffer(self._bytes(column.values + start * 8, rows * 8))]
        if offsets is None:  # texts that are all empty
            return [validity, pa.py_buffer(bytes(4 * (rows + 1))), pa.py_buffer(b"")]
        low, high = int(offsets[skip]), int(offsets[rows])
        text = self._bytes(column.text + low, high - low)
        own = np.maximum(offsets[: rows + 1], np.int32(low)) - np.int32(low)  # what is skipped becomes empty
        return [validity, pa.py_buffer(own), pa.py_buffer(text)]

    def _offsets(self, column: _Column, start: int, rows: int) -> Any:
        """Where the texts of rows begin and end, one more than rows: rising, and within the text."""
        found = np.frombuffer(self._bytes(column.values + 4 * start, 4 * (rows + 1)), "<i4")
        if found[0] < 0 or found[-1] > column.text_bytes or bool((found[1:] < found[:-1]).any()):
            raise Damaged("a text begins or ends where it cannot")
        return found

    def _bytes(self, at: int, size: int) -> bytes:
        found = os.pread(self._fd, size, at)
        if len(found) != size:
            raise Damaged("it ends too early")
        return found


def _kind(field: Table) -> pa.DataType:
    """One of the four types that are written; anything more (a dictionary, children, widths of other sizes) is none."""
    kind, plain = field.number(2, "<B"), not field.has(4)
    if plain and kind == _INT and field.table(3).number(0, "<i") == 64 and field.table(3).number(1, "<B") == 1:
        return pa.int64()
    if plain and kind == _FLOAT and field.table(3).number(0, "<h") == _DOUBLE:
        return pa.float64()
    if plain and kind in (_TEXT, _BOOL):
        return pa.string() if kind == _TEXT else pa.bool_()
    raise Damaged("a column's type is none of double, int64, utf8 and bool")


def _least(kind: pa.DataType, rows: int) -> int:
    """Bytes that the values, or offsets, of so many rows take."""
    if kind == pa.bool_():
        return (rows + 7) // 8
    return 4 * (rows + 1) if kind == pa.string() else 8 * rows


def _within_limit(offsets: list[Any], rows: int) -> int:
    """How many of the rows have texts of no more than PIECE_LIMIT bytes; InvalidParameter when not even one has."""
    if not offsets:
        return rows
    sizes = sum(each.astype(np.int64) - int(each[0]) for each in offsets)
    fitting = int(np.searchsorted(sizes, PIECE_LIMIT, "right")) - 1
    if not fitting:
        raise InvalidParameter(
            f"the predictions for a row have more than {PIECE_LIMIT >> 20} MiB of text", hint="Predict shorter texts."
        )
    return min(fitting, rows)
