"""What the checks of Kubeflow and of the store have in common: files of certificates, and clocks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kwdbml.doctor.checks import Remark
from kwdbml.engines.kfp.backoff import ApiError, NotItself
from kwdbml.errors import EngineError

_MOST_SKEW = 60.0  # seconds
_NOT_UNDERSTOOD = (400, 404, 405, 501)


def authorities(path: Path | None, setting: str) -> str:
    """What a file of certificates holds."""
    if path is None:
        return "none is set: the system's authorities are trusted"
    try:
        count = len(ssl.create_default_context(cafile=path).get_ca_certs())
    except (ssl.SSLError, OSError) as error:
        raise EngineError(
            f"{path} holds no certificates: {getattr(error, 'reason', '') or error.strerror}",
            hint=f"It must be PEM, readable for the worker; or name another file as {setting}.",
        ) from None
    return f"{path} ({count} certificates)"


@contextmanager
def expecting(server: str, address: str, cure: str) -> Iterator[None]:
    """Of the first call of all: who does not understand that one is another server, or it is at another path. A login
    page has a cure of its own."""
    try:
        yield
    except ApiError as error:
        another = isinstance(error, NotItself) and not error.stranger
        if not another and error.status not in _NOT_UNDERSTOOD:
            raise
        detail = error.detail or error.message
        raise EngineError(f"what answers at {address} is not {server}", hint=cure, detail=detail) from None


def skew(now: float | None, server: str, cure: str = "") -> str | Remark:
    """The server's clock beside ours, which differ by half a second for its whole seconds alone."""
    if not now:
        return f"{server} does not tell its time"
    seconds = now - time.time()
    if abs(seconds) > _MOST_SKEW:
        when = "ahead of" if seconds > 0 else "behind"
        return Remark(
            f"the clock of {server} is {abs(seconds):.0f} seconds {when} this machine's",
            cure or "Set both by NTP: times of limits (settings.ttl) are measured on it.",
        )
    return f"the clock of {server} is this machine's"
