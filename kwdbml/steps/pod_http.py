"""A pod's way to the object store: signed addresses, over the standard library, until they work or patience ends.

Servers restart, connections break in the middle of a body, addresses are renewed: a download goes on where it broke, an
upload sends its part again. No message holds an address: whoever has one may read or write.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

_CHUNK = 1 << 20
_TIMEOUT = 60.0
_QUIET = 5.0  # seconds of waiting after which it is said
_DOUBTFUL = 45.0  # seconds that a pod that has had nothing yet waits for what is hardly its store
_PASSING = {408, 425, 429, 500, 502, 503, 504}
#: What stores say with a 400, and what passes all the same.
_PASSING_CODES = {"RequestTimeout", "SlowDown", "InternalError", "BadDigest", "IncompleteBody"}
#: What says no of something before the store, or of the store itself after its key was changed: the worker signs anew.
_REFUSED = {302, 303, 307, 401, 403, 404, 405}
#: Of addresses that were signed for another name of the store than the one that was asked.
_ELSEWHERE = {"SignatureDoesNotMatch"}
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,60})</Code>")

#: Where to go now: asked before each try, because addresses are renewed.
Address = Callable[[], str]


class Failed(Exception):
    """A sentence without addresses. ``passing``: it lies with the object store, and another attempt may succeed."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class Stranger(OSError):
    """An answer that no store gives, such as the page of a login."""


class Problem(NamedTuple):
    """What went wrong, without the address. ``doubtful``: as when the address does not lead to the store at all."""

    text: str
    passes: bool
    doubtful: bool = False


class Expected(NamedTuple):
    bytes: int
    sha256: str


class Http:
    """``refresh`` is called after every failure and may bring new addresses (True). ``patience``: seconds without
    progress after which to give up. ``say``: is told once per object that it is waited for. ``first``: nothing has ever
    been fetched, so the address itself may be wrong."""

    def __init__(
        self,
        authority: str | None,
        patience: float,
        refresh: Callable[[], bool],
        *,
        say: Callable[[str], None] = lambda _: None,
        first: bool = False,
    ) -> None:
        context = ssl.create_default_context(cadata=authority) if authority else ssl.create_default_context()
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _StayHere())
        self.patience = patience
        self.refresh, self.say, self.first = refresh, say, first

    def _open(self, request: urllib.request.Request) -> Any:
        """A store's answer."""
        answer = self._opener.open(request, timeout=_TIMEOUT)
        if answer.headers.get("ETag"):
            return answer
        answer.close()
        raise Stranger(f"answered {answer.status} in other words")

    def read(self, address: Address, sha256: Callable[[], str], what: str, limit: int) -> bytes:
        """A small object, which must have that hash: another one at another address."""
        tries = _Tries(self, what)
        while True:
            try:
                with self._open(_request(address())) as answer:
                    content: bytes = answer.read(limit + 1)
            except (OSError, http.client.HTTPException) as error:
                tries.failed(error)
                continue
            if hashlib.sha256(content).hexdigest() == sha256():
                return content
            tries.failed(Failed(f"{what} is damaged: its SHA-256 is not the recorded one", passing=True))

    def download(self, address: Address, file: BinaryIO, expected: Expected, what: str) -> None:
        """An object into a file that can be truncated. Failed when it is not what was expected."""
        digest, done = hashlib.sha256(), 0
        tries = _Tries(self, what)
        furthest = 0  # a store that sends all from the start again, and breaks again, makes no progress
        while done < expected.bytes:
            try:
                with self._open(_request(address(), offset=done)) as answer:
                    if done and not _goes_on(answer, done):
                        file.seek(0)
                        file.truncate()
                        digest, done = hashlib.sha256(), 0
                    while done <= expected.bytes and (chunk := answer.read(_CHUNK)):
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
            except urllib.error.HTTPError as error:
                if error.code == 416:
                    break  # it ends before it should
                tries.failed(error)
            except (OSError, http.client.HTTPException) as error:
                _raise_ours(error)
                tries.failed(error, progress=done > furthest)
            else:
                if done < expected.bytes:
                    tries.failed(ConnectionError("the connection ended in the middle"), progress=done > furthest)
            furthest = max(furthest, done)
        if done != expected.bytes or digest.hexdigest() != expected.sha256:
            raise Failed(f"{what} is damaged: its SHA-256 is not the recorded one ({done:,} bytes)", passing=True)

    def upload(self, address: Address, source: Source, what: str) -> str:
        """Send it; the store's tag for it."""
        tries = _Tries(self, what)
        while True:
            try:
                with self._open(_request(address(), source=source)) as answer:
                    answer.read()
                    return str(answer.headers["ETag"])
            except (OSError, http.client.HTTPException) as error:
                tries.failed(error)


class Source:
    """Bytes ``begin`` to ``end`` of a file, sent as often as needed; ``digest`` gets them once."""

    def __init__(self, file: BinaryIO, begin: int, end: int, digest: Any) -> None:
        self._file, self._begin, self._end = file, begin, end
        md5 = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            md5.update(chunk)
            digest.update(chunk)
        self.md5 = base64.b64encode(md5.digest()).decode()

    def __len__(self) -> int:
        return self._end - self._begin

    def chunks(self) -> Iterator[bytes]:
        self._file.seek(self._begin)
        left = len(self)
        while left:
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise Failed("a file became shorter while it was sent")
            left -= len(chunk)
            yield chunk


class _Tries:
    """How often something failed, and whether to try again."""

    def __init__(self, http: Http, what: str) -> None:
        self._http, self._what = http, what
        self._since: float | None = None
        self._doubtful_since: float | None = None
        self._count = 0
        self._said = False

    def failed(self, error: Exception, *, progress: bool = False) -> None:
        """Wait before the next try, or raise Failed."""
        now = time.monotonic()
        if progress or self._since is None:
            self._since, self._count = now, 0
        problem = _explained(error)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        if self._http.refresh():
            return  # with new addresses at once
        delay = min(30.0, 0.2 * 2**self._count) * random.uniform(0.5, 1.0)
        self._count += 1
        if not problem.passes or now - self._since + delay > self._http.patience:
            raise Failed(f"{self._what}: {problem.text}", passing=problem.passes) from None
        self._doubt(problem, now + delay)
        if now - self._since + delay > _QUIET and not self._said:
            self._said = True
            self._http.say(f"Waiting for the object store. {self._what}: {problem.text}")
        time.sleep(delay)

    def _doubt(self, problem: Problem, then: float) -> None:
        """A store that was asked with success is the right one, whatever is answered in its place meanwhile."""
        if not (self._http.first and problem.doubtful):
            self._doubtful_since = None
            return
        since = self._doubtful_since = self._doubtful_since or time.monotonic()
        if then - since > _DOUBTFUL:
            raise Failed(f"{self._what}: {problem.text}: is KWDBML_S3_POD_ENDPOINT right?", passing=True) from None


def _explained(error: Exception) -> Problem:
    if isinstance(error, urllib.error.HTTPError):
        body = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            body = error.read(4096)
        found = _CODE.search(body)
        code = found[1].decode() if found else ""
        # an address that has expired: the worker was away, and brings new ones when it is back
        passes = error.code in _PASSING or code in _PASSING_CODES or b"xpired" in body
        passes = passes or (error.code in _REFUSED and not code.startswith("NoSuch"))
        doubtful = error.code in _REFUSED and (not code or code in _ELSEWHERE)
        return Problem(f"the object store answered {error.code} {code}".strip(), passes, doubtful)
    if isinstance(error, Failed):
        return Problem(str(error), error.passing)
    if isinstance(error, Stranger):
        return Problem(f"what answers is no object store: it {error}", passes=True, doubtful=True)
    if isinstance(error, urllib.error.URLError):
        bad = isinstance(error.reason, ssl.SSLCertVerificationError)
        said = "its certificate is not trusted" if bad else str(error.reason)
        doubtful = isinstance(error.reason, socket.gaierror) and error.reason.errno in _NO_SUCH_HOST
        return Problem(f"the object store cannot be reached: {said}", not bad, doubtful)
    return Problem(f"the connection to the object store broke ({type(error).__name__})", passes=True)


def _raise_ours(error: Exception) -> None:
    """A full disk is an OSError too, and no matter of the network's."""
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        raise Failed("the pod's disk is full") from None


def _request(address: str, *, offset: int = 0, source: Source | None = None) -> urllib.request.Request:
    if not address.startswith(("http://", "https://")):
        raise Failed("an address of the object store is none")
    if source is None:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return urllib.request.Request(address, headers=headers)  # noqa: S310 - its scheme was looked at
    headers = {
        "Content-Length": str(len(source)),
        "Content-Type": "application/octet-stream",
        "Content-MD5": source.md5,
    }
    return urllib.request.Request(address, data=source.chunks(), headers=headers, method="PUT")  # noqa: S310


def _goes_on(answer: Any, offset: int) -> bool:
    """Whether the store has heeded the range: some do not, and send everything again."""
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {offset}-")  # some say it with a 200


class _StayHere(urllib.request.HTTPRedirectHandler):
    """An address is signed for one host: what sends us elsewhere is an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
