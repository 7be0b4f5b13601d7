"""Arrow record batches as PostgreSQL's COPY BINARY, vectorised: exact for every type, because what Arrow has no exact
type for (numeric, timestamps with infinity, arrays …) travels as the bytes of its own send function.

ADBC's writer refuses bytes for a column that is not bytea, hence this. Format: "COPY", "Binary Format" in PostgreSQL's
documentation; every field is a 4-byte length (-1: NULL) and that many bytes, big-endian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
#: Bytes of every row, rows × width, and in which rows they are there (None: in all).
Cells = tuple[Bytes, Mask | None]


def encode(batch: pa.RecordBatch) -> memoryview:
    """The tuples of a batch, without header and trailer.

    Neighbours of fixed width, and the lengths before every value, become one block of bytes per row; Arrow joins blocks
    and texts row by row: each byte is copied twice, and none needs an index.
    """
    rows = batch.num_rows
    if not rows:
        return memoryview(b"")
    pieces: list[Any] = []
    block: list[Cells] = [(_big_endian(np.full(rows, batch.num_columns, np.int16)), None)]
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            values = column.cast(pa.binary())
            lengths = pc.binary_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
            pieces += [_joined([*block, (_big_endian(lengths), None)]), values.fill_null(b"")]
            block = []
        else:
            block += _fixed(column)
    if block:
        pieces.append(_joined(block))
    whole = pieces[0] if len(pieces) == 1 else pc.binary_join_element_wise(*pieces, b"")
    return memoryview(whole.buffers()[2])[: int(np.frombuffer(whole.buffers()[1], np.int32)[len(whole)])]


def _fixed(column: Any) -> list[Cells]:
    """Lengths and values of a column of fixed width."""
    present = np.asarray(column.is_valid().to_numpy(zero_copy_only=False)) if column.null_count else None
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    filled = column if present is None else column.fill_null(0)
    cells = _big_endian(filled.to_numpy(zero_copy_only=False))
    width = np.int32(cells.shape[1])
    lengths = np.full(len(cells), width) if present is None else np.where(present, width, np.int32(-1))
    return [(_big_endian(lengths), None), (cells, present)]


def _big_endian(values: npt.NDArray[Any]) -> Bytes:
    """rows × width."""
    swapped = np.ascontiguousarray(values.astype(values.dtype.newbyteorder(">")))
    return swapped.view(np.uint8).reshape(len(values), values.dtype.itemsize)


def _joined(block: list[Cells]) -> Any:
    """Cells side by side, as one binary value per row."""
    cells = np.concatenate([part for part, _ in block], axis=1)
    rows, width = cells.shape
    ends = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    data = cells.reshape(-1)
    if any(present is not None for _, present in block):
        keep = np.ones((rows, width), np.bool_)
        at = 0
        for part, present in block:
            if present is not None:
                keep[:, at : at + part.shape[1]] = present[:, None]
            at += part.shape[1]
        data = data[keep.reshape(-1)]
        ends = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(ends), pa.py_buffer(data)])
