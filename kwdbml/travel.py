"""How a workspace's inputs look on their way through an object store, and how they become files again.

data.arrow travels as data.parquet, in row groups that can be read side by side; packages/ as packages.tar, and
active-packages/ alike; everything else as it is. Both ways take one row group or file at a time. Standard library and
pyarrow: it also runs in pods.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import shutil
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA, PARQUET = "data.arrow", "data.parquet"
#: What was installed for bundles, by name of its directory, and as what it travels.
PACKAGES = {"packages": "packages.tar", "active-packages": "active-packages.tar"}

#: A row group ends at so many rows, or so many bytes of Arrow.
GROUP_ROWS = 128 * 1024
GROUP_BYTES = 64 << 20
#: A batch of the Arrow file made from it, as the worker stages them.
BATCH_BYTES = 8 << 20
_SCHEMA = b"kwdbml.schema"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_CHUNK = 1 << 20


class BadCargo(ValueError):
    """What came is not what can have been sent."""


def python_tag() -> str:
    """For which Python packages are installed: another one cannot load their compiled parts."""
    return f"{platform.python_implementation()} {sysconfig.get_config_var('SOABI')}"


def plain_name(name: str) -> bool:
    """Whether it is the name of one file, and of no other directory's."""
    return bool(_NAME.fullmatch(name))


# -- the data set --------------------------------------------------------------------------------------------------


def write_parquet(source: Path, sink: IO[bytes] | Any) -> None:
    """The Arrow file ``source`` as Parquet into a file-like ``sink``. BadCargo for a type that Parquet has not."""
    # Read, not mapped: pages of a map would stay resident.
    with pa.OSFile(str(source)) as file, pa.PythonFile(sink, mode="w") as out:
        reader = pa.ipc.open_file(file)
        try:
            writer = pq.ParquetWriter(out, reader.schema, **_encoding(reader.schema))
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise BadCargo(f"{source.name} cannot be written as Parquet: {error}") from error
        with writer:
            for table in _groups(reader):
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            # Parquet has no seconds, for one: what it gives back is cast to what it got.
            writer.add_key_value_metadata({_SCHEMA: base64.b64encode(reader.schema.serialize().to_pybytes())})


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """Dictionaries for what repeats: looking for one among numbers takes six times as long as writing them."""
    texts = [field.name for field in schema if not _is_fixed(field.type)]
    floats = [field.name for field in schema if pa.types.is_float32(field.type) or pa.types.is_float64(field.type)]
    return {
        "compression": "zstd",
        "use_dictionary": texts or False,
        "use_byte_stream_split": floats or False,
        "write_statistics": False,
        "version": "2.6",
    }


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_null(kind))


def _groups(reader: Any) -> Iterator[pa.Table]:
    """The file's batches, put together or cut into row groups."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for index in range(reader.num_record_batches):
        for piece in _cut(reader.get_batch(index)):
            if waiting and (rows + piece.num_rows > GROUP_ROWS or size + piece.nbytes > GROUP_BYTES):
                yield pa.Table.from_batches(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows, size = rows + piece.num_rows, size + piece.nbytes
    if rows:
        yield pa.Table.from_batches(waiting)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    most = max(1, min(GROUP_ROWS, GROUP_BYTES * batch.num_rows // max(1, batch.nbytes)))
    for begin in range(0, batch.num_rows, most):
        yield batch.slice(begin, most)


def read_parquet(source: Path, target: Path) -> None:
    """Make the Arrow file again: same schema, same rows; batches of about BATCH_BYTES."""
    with pq.ParquetFile(str(source), pre_buffer=False) as file:
        sent = (file.schema_arrow.metadata or {}).get(_SCHEMA) or (file.metadata.metadata or {}).get(_SCHEMA)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(sent))) if sent else file.schema_arrow
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                if not table.schema.equals(schema, check_metadata=True):
                    table = table.cast(schema)
                rows = max(1, table.num_rows * BATCH_BYTES // max(BATCH_BYTES, table.nbytes))
                writer.write_table(table, max_chunksize=rows)


# -- packages ------------------------------------------------------------------------------------------------------


def write_tar(directory: Path, sink: IO[bytes] | Any) -> None:
    """All plain files below ``directory`` as a tar stream: the same files are the same bytes."""
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for folder, folders, files in os.walk(directory):
            folders.sort()
            for name in sorted(files):
                path = Path(folder) / name
                if path.is_symlink() or not path.is_file():
                    continue
                found = path.stat()
                member = tarfile.TarInfo(path.relative_to(directory).as_posix())
                member.size, member.mode = found.st_size, 0o555 if found.st_mode & 0o100 else 0o444
                with path.open("rb") as file:
                    archive.addfile(member, file)


def read_tar(source: Path, directory: Path) -> None:
    """Unpack plain files, and nothing else, below ``directory``, which must be new. BadCargo for anything else."""
    directory.mkdir(mode=0o755)
    with tarfile.open(source, mode="r|") as archive:
        for member in archive:
            parts = member.name.split("/")
            if not member.isreg() or not all(part not in ("", ".", "..") and "\0" not in part for part in parts):
                raise BadCargo(f"{source.name} holds {member.name!r}, which is no plain file inside of it")
            path = directory.joinpath(*parts)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            content = archive.extractfile(member)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, member.mode & 0o555)
            with os.fdopen(fd, "wb") as file:
                if content is not None:
                    shutil.copyfileobj(content, file, _CHUNK)
                os.fchmod(fd, 0o555 if member.mode & 0o100 else 0o444)


def unfold(inputs: Path) -> None:
    """Make of what travelled what was sent: data.parquet → data.arrow, packages.tar → packages/ …"""
    if (parquet := inputs / PARQUET).is_file():
        read_parquet(parquet, inputs / DATA)
        parquet.unlink()
    for directory, name in PACKAGES.items():
        if (tar := inputs / name).is_file():
            read_tar(tar, inputs / directory)
            tar.unlink()
