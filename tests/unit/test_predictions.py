"""Reading predictions.arrow, whatever it is: what the step writes comes back, the rest is told, in bounded memory."""

from __future__ import annotations

import io
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kwdbml.errors import InvalidParameter
from kwdbml.worker import predictions
from kwdbml.worker.predictions import HANDS_OFF, Predictions

FOUR = {
    "t0": pa.array([None if i % 3 == 0 else i / 8 for i in range(50)], pa.float64()),
    "t1": pa.array(range(50), pa.int64()),
    "t2": pa.array([None if i % 5 == 0 else "ä" * (i % 4) for i in range(50)], pa.string()),
    "t3": pa.array([None if i % 7 == 0 else i % 2 == 0 for i in range(50)], pa.bool_()),
}


def written(columns: dict[str, Any], batch: int = 1000, options: Any = None, schema: Any = None) -> bytes:
    sink = io.BytesIO()
    table = pa.table(columns, schema=schema)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue()


def read(path: Path, content: bytes, columns: int, most: int = 1000) -> Any:
    path.write_bytes(content)
    return read_back(path, columns, most)


def read_back(path: Path, columns: int, most: int = 1000) -> Any:
    with path.open("rb") as file:
        reader, pieces = Predictions(file, columns), []
        while (piece := reader.take(most)) is not None:
            assert 0 < piece.num_rows <= most
            pieces.append(piece)
    return pa.Table.from_batches(pieces) if pieces else None


def refused(path: Path, content: bytes, columns: int = 1) -> str:
    with pytest.raises(InvalidParameter) as caught:
        read(path, content, columns)
    assert caught.value.hint == HANDS_OFF
    return caught.value.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.arrow"


# -- harmless ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 8, 50])
@pytest.mark.parametrize("most", [1, 3, 8, 13, 1000])
def test_what_is_written_comes_back(path: Path, batch: int, most: int) -> None:
    assert read(path, written(FOUR, batch), 4, most).equals(pa.table(FOUR))


def test_no_rows(path: Path) -> None:
    assert read(path, written({"t0": pa.array([], pa.string())}), 1) is None


@pytest.mark.parametrize("values", [[None] * 9, ["", "", ""], [None, "", "a"], ["a" * 300]])
def test_texts(path: Path, values: list[str | None]) -> None:
    assert read(path, written({"t0": pa.array(values, pa.string())}), 1, 2).column(0).to_pylist() == values


def test_slices_and_chunks_of_arrow(path: Path) -> None:
    sliced = {name: column.slice(11, 20) for name, column in FOUR.items()}
    assert read(path, written(sliced), 4).equals(pa.table(sliced))


def test_long_texts_come_in_small_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PIECE_LIMIT", 1000)
    texts = ["x" * (i % 400) for i in range(200)]
    path.write_bytes(written({"t0": pa.array(texts), "t1": pa.array(texts)}))
    with path.open("rb") as file:
        reader, found = Predictions(file, 2), []
        while (piece := reader.take(200)) is not None:
            assert sum(len(text) for column in piece.columns for text in column.to_pylist()) <= 1000
            found += piece.column(1).to_pylist()
    assert found == texts


def test_a_text_that_is_too_long_for_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "PIECE_LIMIT", 1000)
    with pytest.raises(InvalidParameter, match="MiB of text"):
        read(path, written({"t0": pa.array(["a", "x" * 1001])}), 1)
    assert read(path, written({"t0": pa.array(["a", "x" * 999])}), 1).num_rows == 2


# -- hostile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed(path: Path, codec: str) -> None:
    column = {"t0": pa.array(np.zeros(1 << 20))}
    bomb = written(column, 1 << 20, pa.ipc.IpcWriteOptions(compression=codec))
    assert "compressed" in refused(path, bomb)
    assert read(path, written(column, 1 << 20), 1, 1 << 20).num_rows == 1 << 20


TYPES: dict[str, Any] = {
    "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    "list": pa.array([[1], [2]]),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "view": pa.array(["a", "b"], pa.string_view()),
    "large text": pa.array(["a", "b"], pa.large_string()),
    "binary": pa.array([b"a", b"b"]),
    "narrow": pa.array([1, 2], pa.int32()),
    "unsigned": pa.array([1, 2], pa.uint64()),
    "float": pa.array([1, 2], pa.float32()),
    "null": pa.nulls(2),
    "date": pa.array([1, 2], pa.date32()),
    "runs": pa.RunEndEncodedArray.from_arrays([1, 2], ["a", "b"]),
    "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16] * 2, pa.binary(16))),
}


@pytest.mark.parametrize("case", list(TYPES))
def test_other_types(path: Path, case: str) -> None:
    assert "type" in refused(path, written({"t0": TYPES[case]}))


def test_metadata_that_describes_an_extension_is_not_read(path: Path) -> None:
    deep = {b"ARROW:extension:name": b"arrow.fixed_shape_tensor", b"ARROW:extension:metadata": b"[" * 500_000}
    schema = pa.schema([pa.field("t0", pa.int64(), metadata=deep)])
    assert read(path, written({"t0": pa.array([1])}, schema=schema), 1).num_rows == 1


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_another_number_of_columns(path: Path, columns: int) -> None:
    assert "entries" in refused(path, written({f"t{i}": pa.array([1]) for i in range(columns)}), 2)


def test_truncated(path: Path) -> None:
    content = written(FOUR, 20)
    for end in range(len(content)):
        refused(path, content[:end], 4)
        refused(path, content[: max(0, end - 6)] + b"ARROW1", 4) if end < len(content) // 2 else None


def patched(content: bytes, old: int, new: int, which: int = 0) -> bytes:
    """With one of the places changed where a number stands."""
    before, at = np.array([old], "<i8").tobytes(), -1
    for _ in range(which + 1):
        at = content.index(before, at + 1)
    return content[:at] + np.array([new], "<i8").tobytes() + content[at + 8 :]


HUGE = [1 << 62, -1, -(1 << 63), 1 << 40]
NUMBERS = {"t0": pa.array(range(1000, 1333))}  # 333 rows, 2,664 bytes: first of the body, then of its one buffer


@pytest.mark.parametrize("value", [*HUGE, 0, 2656])
def test_body_length(path: Path, value: int) -> None:
    refused(path, patched(written(NUMBERS), 2664, value))


@pytest.mark.parametrize("value", [*HUGE, 0, 2656, 2672])
def test_a_buffer_beyond_the_body(path: Path, value: int) -> None:
    refused(path, patched(written(NUMBERS), 2664, value, 1))


@pytest.mark.parametrize("value", [*HUGE, 0, 334, 1 << 33])
@pytest.mark.parametrize("which", [0, 1])
def test_rows(path: Path, value: int, which: int) -> None:
    """Of the batch, and of its column."""
    refused(path, patched(written(NUMBERS), 333, value, which))


@pytest.mark.parametrize("value", [-1, 334, 1 << 62])
def test_null_count(path: Path, value: int) -> None:
    content = written({"t0": pa.array([None] * 77 + list(range(1000, 1256)))})
    refused(path, patched(content, 77, value))
    assert read(path, patched(content, 77, 78), 1).num_rows == 333  # a lie that harms nobody: it is counted again


@pytest.mark.parametrize("value", [-1, -(1 << 31), 101, (1 << 31) - 1, 95])
@pytest.mark.parametrize("at", [96, 100])
def test_offsets_of_texts(path: Path, at: int, value: int) -> None:
    """Before the text, beyond it, or falling; an offset that only moves a border harms nobody."""
    content = written({"t0": pa.array(["ab"] * 50)})
    right = np.array([94, 96, 98, 100], "<i4")
    assert content.count(right.tobytes()) == 1
    wrong = np.where(right == at, value, right).astype("<i4")
    if (at, value) == (96, 95):
        assert read(path, content.replace(right.tobytes(), wrong.tobytes()), 1).num_rows == 50
    else:
        refused(path, content.replace(right.tobytes(), wrong.tobytes()))


def test_a_text_that_is_no_utf8(path: Path) -> None:
    content = written({"t0": pa.array(["ab", "~~"])})
    assert "UTF8" in refused(path, content.replace(b"~~", b"\xff\xfe"))


def test_the_size_of_metadata(path: Path) -> None:
    content = bytearray(written({"t0": pa.array([1])}))
    for size in (-8, 1 << 30, (1 << 31) - 1, predictions.METADATA_LIMIT + 8, 0):
        content[12:16] = size.to_bytes(4, "little", signed=True)
        refused(path, bytes(content))


#: Run in a process of its own: a crash would end it, and more memory than a worker may take is not to be had.
MUTATIONS = """
import random, resource, sys
from pathlib import Path
from kwdbml.errors import InvalidParameter
from tests.unit.test_predictions import FOUR, mutated, read, written
resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (64 << 20),) * 2)
path, chance, ends = Path(sys.argv[1]), random.Random(int(sys.argv[2])), {"read": 0, "refused": 0}
sound = [written(FOUR, batch) for batch in (9, 50)]
for _ in range(int(sys.argv[3])):
    try:
        read(path, mutated(chance.choice(sound), chance), 4)
        ends["read"] += 1
    except InvalidParameter:
        ends["refused"] += 1
print(ends)
"""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """With a few bytes changed, most of them in the metadata."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(changed))
        width = chance.choice([1, 2, 4, 8])
        value = chance.choice([0, 1, 255, 1 << 7, (1 << 8 * width) - 1, 1 << (8 * width - 1), chance.getrandbits(64)])
        changed[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(changed[: len(content)])


@pytest.mark.parametrize("seed", [1, 2])
def test_mutations_neither_crash_nor_swell(path: Path, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MUTATIONS, str(path), str(seed), "3000"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends = eval(done.stdout)
    assert ends["read"] > 100
    assert ends["refused"] > 100


def test_a_huge_batch_takes_little_memory(path: Path) -> None:
    """The whole frame of a user is one batch: 400 MB of it go through in pieces."""
    rows, sparse = 50_000_000, written({"t0": pa.array(range(7_000, 7_333))})
    big: Callable[[int], bytes] = lambda n: np.array([n], "<i8").tobytes()  # noqa: E731
    head = sparse[: sparse.index(big(7_000))].replace(big(2664), big(rows * 8)).replace(big(333), big(rows))
    with path.open("wb") as file:
        file.write(head)
        file.seek(rows * 8, os.SEEK_CUR)
        file.write(b"\xff\xff\xff\xff\0\0\0\0ARROW1")
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    with path.open("rb") as opened:
        reader = Predictions(opened, 1)
        while (piece := reader.take(1 << 40)) is not None:
            found += piece.num_rows
    assert found == rows
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
