"""What the object store answers when it does not do what it was asked to, as an EngineError with its cure.

No message holds a key, a signature or an address with one: they end up in a job's row and in logs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    SSLError,
)

from kwdbml.engines.kfp.settings import S3Settings
from kwdbml.errors import EngineError

_MOST_TEXT = 500


class _Cure(NamedTuple):
    message: str
    hint: str


_NO_KEY = _Cure(
    "the object store does not know the access key", "Correct KWDBML_S3_ACCESS_KEY, or make that key in the store."
)
_BAD_SIGNATURE = _Cure(
    "the object store refused the signature", "Correct KWDBML_S3_SECRET_KEY, or KWDBML_S3_REGION, which is part of it."
)
_SKEW = _Cure(
    "the clocks of this machine and of the object store differ too much",
    "Set both by NTP: signatures hold for 15 minutes around the store's time.",
)
_NO_BUCKET = _Cure("there is no bucket “{bucket}”", "Make it, or correct KWDBML_S3_BUCKET.")
_DENIED = _Cure(
    "the object store does not allow it",
    "Allow the access key to read, write, list and delete below {prefix}/ in the bucket “{bucket}”.",
)
_REGION = _Cure("the object store's bucket is in another region or at another address", "Correct KWDBML_S3_REGION.")
_GONE = _Cure("the object store has no such object", "")
_CODES = {
    "InvalidAccessKeyId": _NO_KEY,
    "SignatureDoesNotMatch": _BAD_SIGNATURE,
    "RequestTimeTooSkewed": _SKEW,
    "NoSuchBucket": _NO_BUCKET,
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NoSuchKey": _GONE,
    "NotFound": _GONE,
    "NoSuchUpload": _Cure("the object store has no such unfinished upload", ""),
}
#: Answers of a store that is busy or restarts: another attempt may succeed.
_PASSING = frozenset(
    (
        "SlowDown",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "XMinioServerNotInitialized",
        "OperationAborted",
    )
)
_MISSING = frozenset(("NoSuchKey", "NoSuchUpload", "NotFound"))


class StoreError(EngineError):
    """The object store's no. ``missing``: what was asked for is not there. ``curable``: an administrator can help."""

    def __init__(self, message: str, *, hint: str = "", detail: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint, detail=detail, retryable=retryable)
        self.missing = self.curable = False

    @property
    def type_name(self) -> str:
        return EngineError.__name__


class DiskError(StoreError):
    """This machine's disk takes nothing more, or no more files: it will when somebody frees some, and until then what
    was to be fetched stays where it is."""


@contextmanager
def on_disk(name: str) -> Iterator[None]:
    """An error of the file system as one that passes; ``name``: what is written."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{name} cannot be written on the worker's disk: {error.strerror}", hint="Free some space.", retryable=True
        ) from error


@contextmanager
def explained(settings: S3Settings, doing: str) -> Iterator[None]:
    """botocore's errors as StoreError; ``doing``: what was tried, as “reading access.json”."""
    try:
        yield
    except ClientError as error:
        raise _refused(settings, doing, error.response) from error
    except BotoCoreError as error:
        raise _unreachable(settings, doing, error) from error
    except ValueError as error:
        if "endpoint" not in str(error).lower():
            raise
        raise StoreError(f"{doing}: “{settings.endpoint}” is no address of an object store") from error


def is_missing(error: ClientError) -> bool:
    """Whether the store said that there is no such object or upload."""
    return str(error.response.get("Error", {}).get("Code", "")) in _MISSING


def _refused(settings: S3Settings, doing: str, response: Any) -> StoreError:
    said = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    code, text = str(said.get("Code") or ""), _clean(settings, str(said.get("Message") or ""))
    if code == "AccessDenied" and "time" in text.lower():
        code = "RequestTimeTooSkewed"  # as rclone and some gateways say it
    names = {"bucket": settings.bucket, "prefix": settings.prefix}
    cure = _CODES.get(code) or (_DENIED if status == 403 else None)
    detail = f"the object store answered {status} {code}: {text}".rstrip(": ")
    if cure is not None:
        found = StoreError(f"{doing}: {cure.message.format(**names)}", hint=cure.hint.format(**names), detail=detail)
        found.missing = code in _MISSING
        found.curable = not found.missing
        return found
    passing = status >= 500 or status == 429 or code in _PASSING
    if not passing and (not code or code.isdigit()):  # botocore writes the status where it finds no code
        return _not_itself(settings, doing, status)
    hint = "Try again; if it stays so, look at the store's own log." if passing else "Look at the store's own log."
    return StoreError(f"{doing}: {detail}", hint=hint, retryable=passing)


def _not_itself(settings: S3Settings, doing: str, status: int) -> StoreError:
    """Not the words of a store: a proxy that finds nobody behind it, as while the store restarts, or another server."""
    message = f"{doing}: what answers at {settings.endpoint} is no object store: it answered {status} in other words"
    hint = "Correct KWDBML_S3_ENDPOINT if it stays so: it is the store's S3 API, and not its web page."
    return StoreError(message, hint=hint, retryable=True)


def _unreachable(settings: S3Settings, doing: str, error: BotoCoreError) -> StoreError:
    cause = _clean(settings, str(error.kwargs.get("error", "")))
    where = f"{doing}: the object store at {settings.endpoint}"
    match error:
        case SSLError():
            found = StoreError(
                f"{where} has a certificate that is not trusted",
                hint="Give the certificate of its authority as KWDBML_S3_CA_FILE, or correct KWDBML_S3_ENDPOINT.",
                detail=cause,
            )
            found.curable = True
            return found
        case EndpointConnectionError() | ConnectTimeoutError() | ProxyConnectionError():
            message, hint = f"{where} cannot be reached", "Correct KWDBML_S3_ENDPOINT, or start the store."
            return StoreError(message, hint=hint, detail=cause, retryable=True)
        case HTTPClientError():
            return StoreError(f"{where} broke the connection", detail=cause, hint="Try again.", retryable=True)
    message = f"{where} answered what nobody understands ({type(error).__name__})"
    hint = "Try again; or correct KWDBML_S3_ENDPOINT: it may be the store's web page."
    return StoreError(message, hint=hint, retryable=True)


def _clean(settings: S3Settings, text: str) -> str:
    """One line without our keys, and not for ever long."""
    for key in (settings.secret_key.get_secret_value(), settings.access_key):
        text = text.replace(key, "…")
    return " ".join(text.split("?")[0].split())[:_MOST_TEXT]
