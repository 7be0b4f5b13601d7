"""``copybinary.encode`` against PostgreSQL itself: what COPY reads is what was in the batch."""

from __future__ import annotations

import math
import struct
from typing import Any

import psycopg
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kwdbml import copybinary

KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "bool": (pa.bool_(), st.booleans()),
    "int2": (pa.int16(), st.integers(-(1 << 15), (1 << 15) - 1)),
    "int4": (pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
    "int8": (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    "float4": (pa.float32(), st.floats(width=32)),
    "float8": (pa.float64(), st.floats()),
    "text": (pa.string(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "bytea": (pa.binary(), st.binary()),
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[str], pa.RecordBatch]:
    """Some columns of some rows with NULLs; a slice of a larger batch, as landing cuts them."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5))
    rows = draw(st.integers(0, 20))
    columns = [
        pa.array(draw(st.lists(st.none() | KINDS[k][1], min_size=rows, max_size=rows)), KINDS[k][0]) for k in kinds
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=[f"c{n}" for n in range(len(kinds))])
    first = draw(st.integers(0, rows))
    return kinds, batch.slice(first, draw(st.integers(0, rows - first)))


def _key(value: Any) -> Any:
    """NaN equals NaN, and -0 is not 0."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("!d", value)
    return value


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches())
def test_what_is_encoded_is_what_the_server_reads(
    db: psycopg.Connection[Any], made: tuple[list[str], pa.RecordBatch]
) -> None:
    kinds, batch = made
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(kinds))
    with db.transaction(force_rollback=True):
        db.execute(f"CREATE TEMPORARY TABLE t (n serial, {columns})".encode())
        names = ", ".join(batch.schema.names)
        with db.cursor().copy(f"COPY t ({names}) FROM STDIN (FORMAT binary)".encode()) as copy:
            copy.write(copybinary.HEADER + copybinary.encode(batch) + copybinary.TRAILER)
        with db.cursor(binary=True) as cursor:
            found = cursor.execute(f"SELECT {names} FROM t ORDER BY n".encode()).fetchall()
    wanted = [tuple(row.values()) for row in batch.to_pylist()]
    assert [tuple(map(_key, row)) for row in found] == [tuple(map(_key, row)) for row in wanted]


def test_no_rows_are_no_bytes() -> None:
    assert bytes(copybinary.encode(pa.RecordBatch.from_arrays([pa.array([], pa.string())], names=["a"]))) == b""


def test_a_tuple_as_the_documentation_has_it() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.int32()), pa.array([None], pa.string())], names=["a", "b"])
    assert bytes(copybinary.encode(batch)) == b"\0\2\0\0\0\4\0\0\0\1\xff\xff\xff\xff"


def test_bytes_under_a_null_are_left_out() -> None:
    """Arrow allows a NULL to lie over bytes; COPY does not."""
    offsets = pa.py_buffer(struct.pack("<4i", 0, 1, 3, 4))
    array = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), offsets, pa.py_buffer(b"axxb")])
    encoded = copybinary.encode(pa.RecordBatch.from_arrays([array], names=["a"]))
    assert bytes(encoded) == b"\0\1\0\0\0\1a\0\1\xff\xff\xff\xff\0\1\0\0\0\1b"
