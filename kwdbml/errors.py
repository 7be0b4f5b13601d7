"""Every error that kwdbml raises on purpose, with the SQLSTATE a client sees.

Standard library only: this module is also imported inside the database server.
"""

from __future__ import annotations


class KwdbmlError(Exception):
    """An error with a message that names the value, and a hint that says the cure."""

    sqlstate = "XX000"

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    @property
    def type_name(self) -> str:
        """The name that stands in a job's ``error`` as ``type``."""
        return type(self).__name__


class InvalidParameter(KwdbmlError):
    sqlstate = "22023"


class NullNotAllowed(KwdbmlError):
    sqlstate = "22004"


class InsufficientPrivilege(KwdbmlError):
    sqlstate = "42501"


class UndefinedObject(KwdbmlError):
    sqlstate = "42704"


class FeatureNotSupported(KwdbmlError):
    sqlstate = "0A000"


class UndefinedTable(KwdbmlError):
    sqlstate = "42P01"


class DuplicateObject(KwdbmlError):
    sqlstate = "42710"


class DuplicateTable(KwdbmlError):
    sqlstate = "42P07"


class ObjectInUse(KwdbmlError):
    sqlstate = "55006"


class LockNotAvailable(KwdbmlError):
    sqlstate = "55P03"


class WrongState(KwdbmlError):
    sqlstate = "55000"


class LimitExceeded(KwdbmlError):
    sqlstate = "54000"


class InvalidSchema(KwdbmlError):
    sqlstate = "3F000"


class EngineError(KwdbmlError):
    """The engine could not do what it was asked to; ``retryable`` when another attempt may succeed."""

    sqlstate = "58000"

    def __init__(self, message: str, *, hint: str = "", detail: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.retryable = retryable
