"""A job's data from PostgreSQL into an Arrow file, over ADBC, in bounded memory.

Reading happens in one transaction that always ends in ROLLBACK, with the creator's rights (``worker_stage.sql`` has the
story); the connection is closed with it, because a user's query may have left things behind in the session.
Synchronous: call it in a thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
from adbc_driver_manager import dbapi
from adbc_driver_manager._reader import AdbcRecordBatchReader

from kwdbml.errors import KwdbmlError, WrongState
from kwdbml.queries import QUERIES

#: An Arrow batch of about this size is in memory at a time, read or written.
BATCH_BYTES = 8 * 1024 * 1024
_PRIMARY = re.compile(r"(?:ERROR|FATAL):\s+(?P<message>.*?)(?=\n|$)")
_FIELD = re.compile(r"^(?P<name>DETAIL|HINT):\s+(?P<text>.*)$", re.MULTILINE)


class DatabaseError(KwdbmlError):
    """What PostgreSQL said to a statement over ADBC, with its own SQLSTATE."""

    def __init__(self, sqlstate: str, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.sqlstate = sqlstate

    @property
    def type_name(self) -> str:
        try:
            return psycopg.errors.lookup(self.sqlstate).__name__
        except KeyError:
            return "DatabaseError"


@dataclass(frozen=True, slots=True)
class Staged:
    """What lies in the Arrow file: per wanted column its name, role (feature, target, carried) and Arrow column."""

    columns: list[dict[str, str]]
    rows: int
    bytes: int


@contextmanager
def _errors() -> Iterator[None]:
    """ADBC's errors as ours."""
    try:
        yield
    except dbapi.Error as error:
        text = str(error)
        primary = _PRIMARY.search(text)
        fields = {m["name"].lower(): m["text"] for m in _FIELD.finditer(text)}
        raise DatabaseError(error.sqlstate or "08006", primary["message"] if primary else text, **fields) from None


class Connections:
    """Connections to read with, each used once, one of them made ahead: connecting and the first calls in a new backend
    take longer than staging a small table."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kwdbml-connect")
        self._ahead: Future[Any] | None = None

    def prepare(self) -> None:
        """Begin to connect; errors come with ``take``."""
        self._ahead = self._ahead or self._thread.submit(self._connect)

    def take(self) -> Any:
        """A fresh connection; DatabaseError when there is none to be had."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with suppress(DatabaseError):
                connection = ahead.result()
                if self._alive(connection):
                    return connection
        return self._connect()

    def close(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with suppress(DatabaseError):
                ahead.result().close()
        self._thread.shutdown()

    def _connect(self) -> Any:
        with _errors():
            connection = adbc.connect(self._dsn)
            self._alive(connection)
            return connection

    @staticmethod
    def _alive(connection: Any) -> bool:
        """Whether the server still answers; leaves no transaction open."""
        try:
            with connection.cursor() as cursor:
                cursor.execute(QUERIES["rehearse"])
                cursor.fetchall()
            connection.rollback()
        except dbapi.Error:
            with suppress(dbapi.Error):
                connection.close()
            return False
        return True


class Reader:
    """Reads one job's data set; ``cancel`` may be called from another thread."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._cursor: Any = None
        self.backend: int | None = None  # the server's process that reads, once it is known
        self._canceled = False

    def cancel(self) -> None:
        self._canceled = True
        cursor = self._cursor
        if cursor is not None:
            cursor.adbc_cancel()

    def stage(self, job: str, token: str, target: Path, progress: Callable[[int], None]) -> Staged:
        """Write the job's data to ``target``; ``progress`` hears the rows so far. DatabaseError as the query's own."""
        with _errors(), closing(self._connections.take()) as connection:
            try:
                with connection.cursor() as cursor:
                    self._cursor = cursor
                    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                    cursor.execute(QUERIES["stage"], parameters=(job, token))
                    statement, path, columns, self.backend = cursor.fetchone()
                    cursor.execute(QUERIES["set_path"], parameters=(path,))
                    cursor.fetchone()
                    if self._canceled:
                        raise WrongState("canceled while staging")
                    cursor.execute(statement)
                    # not fetch_record_batch, whose reader raises OSError for what the query raises, without SQLSTATE
                    stream = cursor.fetch_arrow()
                    batches = AdbcRecordBatchReader._import_from_c(stream.address)  # noqa: SLF001
                    rows = self._copy(batches, target, progress)
            finally:
                self._cursor = None
                with suppress(dbapi.Error):  # a connection that is gone has rolled back
                    connection.rollback()
        return Staged(json.loads(columns), rows, target.stat().st_size)

    @staticmethod
    def _copy(batches: pa.RecordBatchReader, target: Path, progress: Callable[[int], None]) -> int:
        rows = 0
        with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
                progress(rows)
        return rows
