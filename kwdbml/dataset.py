"""A job's data from PostgreSQL into an Arrow file, over ADBC, in bounded memory.

Reading happens in one transaction that always ends in ROLLBACK, with the creator's rights (``worker_stage.sql`` has the
story); the connection is closed with it, because a user's query may have left things behind in the session.
Synchronous: call it in a thread.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
from adbc_driver_manager import dbapi
from adbc_driver_manager._reader import AdbcRecordBatchReader

from kwdbml.errors import KwdbmlError, WrongState
from kwdbml.queries import QUERIES, attentive

#: An Arrow batch of about this size is in memory at a time, read or written.
BATCH_BYTES = 8 * 1024 * 1024
_MOST_TEXT = 2_000  # characters of what PostgreSQL, or a function of a user, says
_FATAL = re.compile(r"(?:ERROR|FATAL):\s+(?P<message>.*)")


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


class QueryError(DatabaseError):
    """What the data query itself said. ``said``, of a cast that failed, is told of ``column``, wanted as a type; where
    that is not known, it is one of the ``suspects``, or of the query's own when there are none."""

    column: str = ""
    wanted: str = ""
    suspects: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Staged:
    """What lies in the Arrow file: per wanted column its name, role (feature, target, carried) and Arrow column."""

    columns: list[dict[str, str]]
    rows: int
    bytes: int
    sha256: str


@contextmanager
def _errors(kind: type[DatabaseError] = DatabaseError) -> Iterator[None]:
    """ADBC's errors as ours."""
    try:
        yield
    except dbapi.Error as error:
        said = {_text(name): _text(value) for name, value in error.details}
        primary = said.get("PG_DIAG_MESSAGE_PRIMARY")
        if primary is None:  # the connection's, not a statement's
            found = _FATAL.search(str(error))
            primary = found["message"] if found else str(error)
        fields = {name: one_line(said.get(f"PG_DIAG_MESSAGE_{name.upper()}", "")) for name in ("detail", "hint")}
        raise kind(error.sqlstate or "08006", one_line(primary), **fields) from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def one_line(text: str) -> str:
    """The text, of which a user may have written every character, without what no line has; not for ever long."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _MOST_TEXT]).split())
    return shown if len(shown) <= _MOST_TEXT else shown[:_MOST_TEXT] + " …"


class Connections:
    """Connections to read with, each used once, one of them made ahead: connecting and the first calls in a new backend
    take longer than staging a small table."""

    def __init__(self, dsn: str) -> None:
        self._dsn = attentive(dsn)
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
        self.rows = 0  # written so far
        self._canceled = False

    def cancel(self) -> None:
        self._canceled = True
        cursor = self._cursor
        if cursor is not None:
            cursor.adbc_cancel()

    def stage(self, job: str, token: str, target: Path) -> Staged:
        """Write the job's data to ``target``. QueryError as the query's own, DatabaseError as anything else's."""
        try:
            with self._prepared("stage", job, token) as (cursor, statement, columns), _errors(QueryError):
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                cursor.execute(statement)
                # not fetch_record_batch, whose reader raises OSError for what the query raises, without SQLSTATE
                stream = cursor.fetch_arrow()
                batches = AdbcRecordBatchReader._import_from_c(stream.address)  # noqa: SLF001
                sha256 = self._copy(batches, target)
        except QueryError as error:
            if error.sqlstate.startswith("22"):
                self._trace(job, token, error)
            raise
        return Staged(columns, self.rows, target.stat().st_size, sha256)

    def _trace(self, job: str, token: str, error: QueryError) -> None:
        """Find the column whose cast has failed; as far as can be told: the data may be others by now."""
        try:
            with self._prepared("trace", job, token) as (cursor, statement, suspects), _errors(QueryError):
                error.suspects = suspects or ()
                if statement is None:
                    return
                cursor.execute(statement)
                answer = cursor.fetchone()[0]
        except QueryError as again:
            if again.sqlstate == error.sqlstate:
                error.suspects = ()  # it is not a cast
            return
        except KwdbmlError:
            return
        if answer is not None:
            found = json.loads(answer)
            error.column, error.wanted, error.message = found["column"], found["wanted"], one_line(found["said"])

    @contextmanager
    def _prepared(self, name: str, job: str, token: str) -> Iterator[tuple[Any, Any, Any]]:
        """(cursor, what to execute, what comes with it), in a transaction that is rolled back."""
        with _errors(), closing(self._connections.take()) as connection:
            try:
                with connection.cursor() as cursor:
                    self._cursor = cursor
                    cursor.execute(QUERIES[name], parameters=(job, token))
                    statement, path, more, self.backend = cursor.fetchone()
                    cursor.execute(QUERIES["set_path"], parameters=(path,))
                    cursor.fetchone()
                    if self._canceled:
                        raise WrongState("canceled while staging")
                    yield cursor, statement, more and json.loads(more)
            finally:
                self._cursor = None
                with suppress(dbapi.Error):  # a connection that is gone has rolled back
                    connection.rollback()

    def _copy(self, batches: pa.RecordBatchReader, target: Path) -> str:
        """Write it all; the file's SHA-256."""
        with target.open("wb") as file:
            hashed = _Hashed(file)
            with pa.PythonFile(hashed, mode="w") as sink, pa.ipc.new_file(sink, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    self.rows += batch.num_rows
        return hashed.digest.hexdigest()


class _Hashed:
    """A file that is written from its beginning to its end, and its SHA-256: reading it once more would take time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.flush, self.tell, self.close = file.flush, file.tell, file.close

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
