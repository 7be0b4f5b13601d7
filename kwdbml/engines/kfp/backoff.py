"""Servers that are slow, full, away or that say no: what it means, and when to ask again.

One short story for the KFP API and the Kubernetes API: a failure becomes an ``ApiError`` that says what to do; calls
that may be repeated are, a few times, with growing pauses that are spread at random, or as long as the server asks for.
Who wants to wait longer than that repeats the call himself: ``retryable`` says whether it can help.
"""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from urllib3 import exceptions as http

from kwdbml.engines.kfp import ending
from kwdbml.errors import EngineError

T = TypeVar("T")

ATTEMPTS = 3
_MOST_WAIT = 10.0  # seconds that a thread is held by one pause; a server that asks for more is left alone meanwhile
_MOST_TEXT = 500
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
#: What a gate before the server says in its place, and means the same: come later, or as somebody else.
_ANYBODYS = (_PASSING - {500}) | {401, 403}


@dataclass(frozen=True, slots=True)
class Server:
    """Whom we speak with, and which settings a cure names."""

    name: str
    address: str
    address_setting: str
    unknown: str  # the cure of 401
    forbidden: str  # the cure of 403
    untrusted: str  # the cure of a certificate that nobody vouches for
    own: Callable[[Mapping[str, Any]], bool]  # whether a refusal is in its own words


class ApiError(EngineError):
    """``status``: of HTTP, None without an answer of the server itself. ``sent``: it may have been carried out all the
    same. ``curable``: an administrator can help, or who renews the token. ``stranger``: it does not know who asks."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        detail: str = "",
        retryable: bool = False,
        curable: bool = False,
        stranger: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, detail=detail, retryable=retryable)
        self.status = status
        self.retry_after = retry_after
        self.sent = sent
        self.curable = curable
        self.stranger = stranger

    @property
    def type_name(self) -> str:
        return EngineError.__name__


class NotItself(ApiError):
    """Something else has answered, which knows nothing of what was asked for."""


# -- what went wrong -------------------------------------------------------------------------------------------------


def refused(server: Server, doing: str, status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """An answer that is no success."""
    if 300 <= status < 400:
        return not_itself(server, doing, f"it answered {status}, a redirection", stranger=True, sent=False)
    said = told(body)
    if status not in _ANYBODYS and not _in_its_own_words(server, body):
        return not_itself(server, doing, f"it answered {status} in other words", detail=said)
    detail = f"{server.name} answered {status}: {said}" if said else f"{server.name} answered {status}"
    if status in _PASSING:
        hint = "It is busy or restarts; if it stays so, look at its log."
        return ApiError(
            f"{doing}: {detail}",
            hint=hint,
            retryable=True,
            status=status,
            retry_after=_retry_after(headers),
            sent=status not in (425, 429),
        )
    cures = {
        401: ("does not know who asks", server.unknown),
        403: ("does not allow it", server.forbidden),
        404: ("has no such thing", ""),
        409: ("has it already, or it changed meanwhile", ""),
    }
    if status in cures:
        what, hint = cures[status]
        return ApiError(
            f"{doing}: {server.name} {what}", hint=hint, detail=detail, status=status,
            curable=status in (401, 403), stranger=status == 401,
        )  # fmt: skip
    return ApiError(f"{doing}: {detail}", hint=f"Is it a {server.name} of a version that we know?", status=status)


def unreachable(server: Server, doing: str, error: Exception) -> ApiError:
    """No answer, or half of one. A broken connection does not tell whether the request was carried out."""
    where = f"{doing}: {server.name} at {server.address}"
    cause = _shortened(str(error))
    match error:
        case http.SSLError() if "WRONG_VERSION_NUMBER" in cause or "record layer" in cause:
            hint = f"Write http:// in {server.address_setting}."
            return ApiError(f"{where} does not speak TLS", hint=hint, detail=cause, curable=True)
        case http.SSLError():
            what = f"{where} has a certificate that is not trusted"
            return ApiError(what, hint=server.untrusted, detail=cause, curable=True)
        case http.NewConnectionError() | http.ConnectTimeoutError() | http.ProxyError():
            hint = f"Correct {server.address_setting}, or start it."
            return ApiError(f"{where} cannot be reached", hint=hint, detail=cause, retryable=True)
        case http.TimeoutError():
            hint = "It is slow: raise KWDBML_KFP_TIMEOUT, or look at its log."
            return ApiError(f"{where} did not answer in time", hint=hint, detail=cause, retryable=True, sent=True)
        case http.LocationValueError():
            return ApiError(f"{where} is no address", hint=f"Correct {server.address_setting}.", detail=cause)
    return ApiError(f"{where} broke the connection", hint="Try again.", detail=cause, retryable=True, sent=True)


def not_itself(
    server: Server, doing: str, why: str, *, detail: str = "", stranger: bool = False, sent: bool = True
) -> NotItself:
    """Something before the server answered, or another server: of what was asked for it knows nothing, not even
    whether it was carried out. ``stranger``: with a login page, as of a proxy that does not take the token any more."""
    cure = f"If it stays so, look at what stands before it, or correct {server.address_setting}."
    login = f"{server.unknown} Or correct {server.address_setting}: it may be a login page before it."
    return NotItself(
        f"{doing}: what answers at {server.address} is not {server.name}: {why}",
        hint=login if stranger else cure,
        detail=detail,
        retryable=True,
        curable=True,
        stranger=stranger,
        sent=sent,
    )


def heard(server: Server, doing: str, body: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """What ``read`` finds in the answer of a success. Where it does not find what must be there, another answered."""
    try:
        answer = json.loads(body)
    except ValueError:
        page = body.lstrip()[:1] == b"<"
        why = "it answered with a page" if page else "it answered with what is no JSON"
        raise not_itself(server, doing, why, stranger=page) from None
    if not isinstance(answer, dict):
        raise not_itself(server, doing, "it answered with another kind of JSON")
    try:
        return read(answer)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise not_itself(server, doing, "it answered in other words", detail=told(body)) from error


def _in_its_own_words(server: Server, body: bytes) -> bool:
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and server.own(found)


def told(body: bytes) -> str:
    """What an error's body says: {"message"}, or {"error_message"} of KFP's uploads; of anything else its beginning."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        return "" if text.lstrip()[:1] == "<" else _shortened(text)
    if not isinstance(found, dict):
        return _shortened(text)
    return _shortened(str(found.get("message") or found.get("error_message") or found.get("error") or ""))


def _shortened(text: str) -> str:
    return " ".join(text.split())[:_MOST_TEXT]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


# -- asking again ----------------------------------------------------------------------------------------------------


def pauses(
    first: float = 0.25, most: float = _MOST_WAIT, *, rng: Callable[[], float] = random.random
) -> Iterator[float]:
    """Twice as long each time, spread over its upper half so that many clients do not come back at once."""
    whole = first
    while True:
        yield whole * (0.5 + rng() / 2)
        whole = min(2 * whole, most)


def repeated(call: Callable[[], T], *, attempts: int = ATTEMPTS, sleep: Callable[[float], None] = time.sleep) -> T:
    """For calls that do no harm twice: again while it can help, while somebody waits for it, and unless the server asks
    for a long wait."""
    waits = pauses()
    for attempt in range(1, attempts + 1):
        ending.go_on()
        try:
            return call()
        except ApiError as error:
            wait = max(next(waits), error.retry_after or 0.0)
            if not error.retryable or attempt == attempts or wait > _MOST_WAIT:
                raise
            sleep(wait)
    raise AssertionError("unreachable")
