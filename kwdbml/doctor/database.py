"""The database as the worker will use it: reached with its DSN, of its version, as a role with the right rights."""

from __future__ import annotations

import secrets
from typing import Any

import psycopg
from packaging.version import Version
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from kwdbml import __version__, queries
from kwdbml.doctor.checks import Check, Remark
from kwdbml.embedded.binaries import SUPPORTED
from kwdbml.errors import InsufficientPrivilege, InvalidParameter, KwdbmlError, WrongState
from kwdbml.queries import QUERIES

_QUERIES = queries.load("kwdbml.doctor")
_PATIENCE = 10  # seconds to connect, and for a notification to arrive
#: What libpq says when there is no connection (it has no SQLSTATE for that): part of its message → cure.
_CURES = (
    ("connection refused", "Start the server, or correct host and port of the DSN; it must listen on that address."),
    ("no such file or directory", "Start the server, or name a host in the DSN: without one a local socket is used."),
    ("could not translate host name", "Correct the host of the DSN."),
    ("failed to resolve host", "Correct the host of the DSN."),
    ("name or service not known", "Correct the host of the DSN."),
    ("timeout", "Correct the host of the DSN, or open the way to it: a firewall or network policy may be between."),
    ("network is unreachable", "Correct the host of the DSN, or open the way to it."),
    ("no password supplied", "Give the password in PGPASSFILE (only its owner may read it), or in KWDBML_DSN."),
    ("password authentication failed", "Correct user and password: the latter in PGPASSFILE, or in KWDBML_DSN."),
    ("no pg_hba.conf entry", "Let the role in: a line of pg_hba.conf for it, the database and this machine's address."),
    ("does not support ssl", "Switch ssl on in the server, or ask for less with sslmode in the DSN."),
    ("certificate", "Give the certificate of the server's authority as sslrootcert in the DSN, or correct its host."),
    ("too many", "Raise max_connections of the server, or end connections that nobody needs."),
    ("connection slots", "Raise max_connections of the server, or end connections that nobody needs."),
    ("starting up", "Wait until the server has started."),
    ("database", "Create the database, or correct dbname in the DSN."),
    ("role", "Create the role: CREATE ROLE … LOGIN PASSWORD … IN ROLE kwdbml_worker."),
)


class Database:
    """The checks, over one connection that the second of them opens; ``close`` it at the end."""

    def __init__(self, dsn: str, *, allow_superuser: bool = False) -> None:
        self._dsn, self._allow_superuser = dsn, allow_superuser
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    def checks(self) -> list[Check]:
        connected = ("database.connection",)
        return [
            Check("database.dsn", self.dsn),
            Check("database.connection", self.connection, ("database.dsn",)),
            Check("database.encryption", self.encryption, connected),
            Check("database.version", self.version, connected),
            Check("database.extension", self.extension, connected),
            Check("database.role", self.role, connected),
            Check("database.python", self.python, ("database.extension",)),
            Check("database.notifications", self.notifications, connected),
        ]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # -- the checks ----------------------------------------------------------------------------------------------

    def dsn(self) -> str:
        try:
            found = conninfo_to_dict(self._dsn)
        except psycopg.Error:  # its text may quote the password
            raise InvalidParameter(
                "the DSN is no libpq connection string",
                hint="Write it like postgresql://user@host:5432/dbname, or host=… dbname=… user=….",
            ) from None
        shown = {name: found.get(name) for name in ("host", "port", "dbname", "user")}
        return " ".join(f"{name}={value}" for name, value in shown.items() if value) or "libpq's defaults"

    def connection(self) -> str:
        self._connection = self._connect()
        found = self._row(self._connection, _QUERIES["server"])
        return f'connected to database "{found["database"]}" as "{found["user"]}"'

    def encryption(self) -> str | Remark:
        connection = self._open
        info, secured = connection.info, connection.pgconn.ssl_in_use
        if not secured and (not info.host or info.host.startswith("/") or info.hostaddr in ("127.0.0.1", "::1")):
            return "not encrypted, and the server is this machine"
        if not secured:
            return Remark(
                f"what goes to {info.host} is not encrypted",
                "Switch ssl on in the server, and set sslmode=verify-full and sslrootcert in the DSN.",
            )
        mode = conninfo_to_dict(self._dsn).get("sslmode") or "prefer"
        if mode not in ("verify-ca", "verify-full"):
            return Remark(
                f"encrypted, but with sslmode={mode} nobody verifies who answers",
                "Set sslmode=verify-full and sslrootcert in the DSN.",
            )
        return f"encrypted, sslmode={mode}"

    def version(self) -> str:
        found = self._row(self._open, _QUERIES["server"])
        if found["major"] not in SUPPORTED:
            raise WrongState(
                f"PostgreSQL {found['version']} is not supported",
                hint=f"Use PostgreSQL {SUPPORTED.start} to {SUPPORTED.stop - 1}.",
            )
        return f"PostgreSQL {found['version']}"

    def extension(self) -> str:
        found = self._row(self._open, QUERIES["whoami"])["version"]
        if found is None:
            raise WrongState(
                f'the database "{self._open.info.dbname}" has no extension kwdbml',
                hint="Is dbname right? Otherwise, as a superuser: CREATE EXTENSION kwdbml CASCADE;",
            )
        if found != __version__:
            older = Version(found) < Version(__version__)
            update = "Run kwdbml extension install on the server's machine, then ALTER EXTENSION kwdbml UPDATE."
            raise WrongState(
                f"the extension has version {found}, and this kwdbml has {__version__}",
                hint=update if older else f"Install kwdbml {found} here.",
            )
        return f"kwdbml {found}"

    def role(self) -> str | Remark:
        found, user = self._row(self._open, QUERIES["whoami"]), self._open.info.user
        if found["superuser"]:
            return self._superuser(user)
        if not found["is_worker"]:
            raise InsufficientPrivilege(f'the role "{user}" is no member of kwdbml_worker', hint=_grant(user))
        powers = [row["power"] for row in self._open.execute(_QUERIES["powers"].encode()).fetchall()]
        if powers:
            return Remark(
                f'the role "{user}" has more than kwdbml_worker: {", ".join(powers)}',
                "Take it away: a worker needs no other right, and user code runs beside it.",
            )
        return f'"{user}" is a member of kwdbml_worker and nothing else'

    def _superuser(self, user: str) -> Remark:
        cure = "Give the worker a login role that is only a member of kwdbml_worker."
        if not self._allow_superuser:
            raise InsufficientPrivilege(f'the role "{user}" is a superuser, and the worker refuses it', hint=cure)
        return Remark(f'the role "{user}" is a superuser, as it may be with allow_superuser', cure)

    def python(self) -> str:
        """The server's own Python loads what the functions call: a package of the right version."""
        try:
            found = self._row(self._open, _QUERIES["python"])
        except psycopg.Error as error:
            raise WrongState(
                f"the server's Python does not work: {error.diag.message_primary or error}",
                hint=error.diag.message_hint or "Run kwdbml extension install on the server's machine.",
            ) from None
        return f"the server's Python answers ({found['algorithms']} algorithms)"

    def notifications(self) -> str:
        """LISTEN on one connection, NOTIFY on another: a pooler between may lose it."""
        payload = f"doctor-{secrets.token_hex(8)}"
        with self._connect() as listening, self._connect() as telling:
            listening.execute(QUERIES["listen"].encode())
            telling.execute(_QUERIES["notify"].encode(), {"payload": payload})
            for told in listening.notifies(timeout=_PATIENCE):
                if told.payload == payload:
                    return "notifications arrive"
        raise WrongState(
            "no notification arrives: jobs would start with a delay",
            hint="Connect to the server itself, not through a pooler that shares connections by transaction.",
        )

    # -- connections ---------------------------------------------------------------------------------------------

    @property
    def _open(self) -> psycopg.Connection[dict[str, Any]]:
        if self._connection is None:
            raise AssertionError("database.connection comes first")
        return self._connection

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        patience = conninfo_to_dict(self._dsn).get("connect_timeout") or _PATIENCE
        try:
            return psycopg.connect(
                self._dsn, connect_timeout=patience, autocommit=True, application_name="kwdbml doctor",
                row_factory=dict_row,
            )  # fmt: skip
        except psycopg.Error as error:
            raise _unreached(error) from None

    @staticmethod
    def _row(connection: psycopg.Connection[dict[str, Any]], statement: str) -> dict[str, Any]:
        row = connection.execute(statement.encode()).fetchone()
        if row is None:
            raise AssertionError("the statement gives one row")
        return row


def _grant(user: str) -> str:
    return f"As a superuser: GRANT kwdbml_worker TO {sql.Identifier(user).as_string()}; or correct user in the DSN."


def _unreached(error: psycopg.Error) -> KwdbmlError:
    text = " ".join(str(error).split())
    cure = next((cure for part, cure in _CURES if part in text.lower()), "Correct the DSN: psql must connect with it.")
    return WrongState(f"no connection: {text}", hint=cure)
