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

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def encode(batch: pa.RecordBatch) -> bytes:
    """The tuples of a batch, without header and trailer."""
    fields = [_field(column) for column in batch.columns]
    rows = batch.num_rows
    widths = np.full(rows, 2 + 4 * len(fields), np.int64)
    for lengths, _ in fields:
        widths += np.maximum(lengths, 0)
    ends = np.cumsum(widths)
    out = np.empty(int(ends[-1]) if rows else 0, np.uint8)
    at = ends - widths
    _scatter(out, at, np.full(rows, len(fields), ">i2").view(np.uint8).reshape(rows, 2))
    at = at + 2
    for lengths, payload in fields:
        _scatter(out, at, lengths.astype(">i4").view(np.uint8).reshape(rows, 4))
        at = at + 4
        if payload.ndim == 2:
            valid = lengths >= 0
            _scatter(out, at[valid], payload[valid])
        else:
            sizes = np.maximum(lengths, 0)
            first = np.cumsum(sizes) - sizes
            out[np.repeat(at - first, sizes) + np.arange(len(payload))] = payload
        at = at + np.maximum(lengths, 0)
    return out.tobytes()


def _scatter(out: Bytes, at: Ints, cells: Bytes) -> None:
    """Write row i of ``cells`` (rows × width) at ``at[i]``."""
    for byte in range(cells.shape[1]):
        out[at + byte] = cells[:, byte]


def _field(array: Any) -> tuple[Ints, Bytes]:
    """(lengths, -1 where NULL; payload: rows × width when fixed, else the bytes of all values in order)."""
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        return _variable(array)
    if pa.types.is_boolean(array.type):
        values = array.cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint8)
    else:
        filled = array.fill_null(0) if array.null_count else array
        values = filled.to_numpy(zero_copy_only=False)
        values = values.astype(values.dtype.newbyteorder(">"))
    width = values.dtype.itemsize
    lengths = np.full(len(array), width, np.int64)
    if array.null_count:
        lengths[_nulls(array)] = -1
    return lengths, np.ascontiguousarray(values).view(np.uint8).reshape(len(array), width)


def _variable(array: Any) -> tuple[Ints, Bytes]:
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    lengths = np.diff(offsets)
    payload = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    if not array.null_count:
        return lengths, payload[offsets[0] : offsets[-1]]
    nulls = _nulls(array)
    if lengths[nulls].any():  # a NULL may lie over bytes: leave them out
        keep = np.repeat(~nulls, lengths)
        payload = payload[offsets[0] : offsets[-1]][keep]
    else:
        payload = payload[offsets[0] : offsets[-1]]
    return np.where(nulls, -1, lengths), payload


def _nulls(array: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(array.is_null().to_numpy(zero_copy_only=False))
