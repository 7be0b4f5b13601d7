"""What ``kwdbml doctor`` looks at of the object store: everything that a run does there, with an object of our own.

The object lies below the prefix, like the files of a run of the name ``kwdbml-doctor-…``, and is deleted at the end.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import secrets
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from kwdbml.doctor.checks import Check, Remark
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.probing import authorities, skew
from kwdbml.engines.kfp.settings import S3Settings
from kwdbml.errors import EngineError

_CONTENT = b"kwdbml doctor was here\n"
_SECONDS = 300  # that the signed addresses hold
_PATIENCE = urllib3.Timeout(connect=10.0, read=10.0)


class StoreChecks:
    """``close`` deletes what an interrupted examination has left."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._run = f"kwdbml-doctor-{secrets.token_hex(6)}"
        self._date: str | None = None  # the store's own
        self._wrote = False

    def checks(self) -> list[Check]:
        reached, found, written = ("s3.endpoint",), ("s3.bucket",), ("s3.write",)
        return [
            Check("s3.ca_file", self.ca_file),
            Check("s3.endpoint", self.endpoint, ("s3.ca_file",)),
            Check("s3.clock", self.clock, reached),
            Check("s3.bucket", self.bucket, reached),
            Check("s3.write", self.write, found),
            Check("s3.read", self.read, written),
            Check("s3.list", self.list, written),
            Check("s3.parts", self.parts, written),
            Check("s3.pod_endpoint", self.pod_endpoint),
            Check("s3.presigned", self.presigned, written),
            Check("s3.delete", self.delete, found),
        ]

    def close(self) -> None:
        if self._wrote:
            with contextlib.suppress(EngineError):
                self._store.delete_run(self._run)

    @functools.cached_property
    def _store(self) -> ObjectStore:
        return ObjectStore(self._settings)

    def _key(self, name: str) -> str:
        return self._store.key(self._run, name)

    # -- the checks ----------------------------------------------------------------------------------------------

    def ca_file(self) -> str:
        return authorities(self._settings.ca_file, "KWDBML_S3_CA_FILE")

    def endpoint(self) -> str:
        """Something answers there, whatever it thinks of us."""
        status, self._date = self._asked("GET", self._settings.endpoint)[:2]
        return f"{self._settings.endpoint} answers ({status})"

    def clock(self) -> str | Remark:
        """Signatures hold for 15 minutes around the store's time."""
        date = email.utils.parsedate_to_datetime(self._date).timestamp() if self._date else None
        return skew(date, "the object store", "Set both by NTP: at 15 minutes the store refuses our signatures.")

    def bucket(self) -> str:
        """The signature is accepted, and the bucket is there."""
        self._store.check()
        return f'the signature is accepted, and the bucket "{self._settings.bucket}" is there'

    def write(self) -> str:
        self._wrote = True
        self._store.put(self._key("probe"), _CONTENT)
        return f"an object below {self._settings.prefix}/ was written"

    def read(self) -> str:
        if self._store.get(self._key("probe"), limit=len(_CONTENT)) != _CONTENT:
            raise _another("what was written is not what is read")
        return "what was written is what is read"

    def list(self) -> str:
        if [name for name, _ in self._store.names(self._key(""))] != [self._key("probe")]:
            raise _another("what was written is not in the list")
        return "what was written is listed"

    def parts(self) -> str:
        key = self._key("parts")
        upload = self._store.begin(key)
        part = self._store.part(key, upload, 1, _CONTENT)
        self._store.complete(key, upload, [part])
        if self._store.get(key, limit=len(_CONTENT)) != _CONTENT:
            raise _another("an object of several parts is not what was written")
        return "an upload in parts can be begun and completed"

    def pod_endpoint(self) -> str | Remark:
        endpoint, own = self._settings.pod_endpoint, self._settings.endpoint
        if urlsplit(endpoint).hostname in ("localhost", "127.0.0.1", "::1"):
            text = f"pods are told to find the store at {endpoint}, which is each pod itself"
            return Remark(text, "Give the address that pods reach as KWDBML_S3_POD_ENDPOINT.")
        if endpoint != own:
            text = f"pods find the store at {endpoint}, the worker at {own}"
            return Remark(text, "Nothing to do if both lead to the same store.")
        return f"pods find the store where the worker does: {endpoint}"

    def presigned(self) -> str | Remark:
        """As a pod does it: no key, a signed address."""
        where = self._settings.pod_endpoint
        try:
            wrote = self._asked("PUT", self._store.url_put(self._key("signed"), _SECONDS), _CONTENT)[0]
            read = self._asked("GET", self._store.url_get(self._key("probe"), _SECONDS))
        except EngineError as error:
            if where == self._settings.endpoint:
                raise
            return Remark(f"{where}, where pods find the store, was not tried: {error.message}", error.hint)
        if not 200 <= wrote < 300 or read[0] != 200 or read[2] != _CONTENT:
            refused = wrote if not 200 <= wrote < 300 else read[0]
            raise EngineError(
                f"a signed address of {where} is refused ({refused}): pods could not fetch or give anything",
                hint="It must lead to the same store, and what is between must not change host name, port or path.",
            )
        return "signed addresses, as pods get them, are accepted"

    def delete(self) -> str:
        self._store.delete_run(self._run)
        if left := self._store.names(self._key("")):
            raise _another(f"{len(left)} of our objects are still there after they were deleted")
        self._wrote = False
        return "what was written is deleted"

    # -- calls ---------------------------------------------------------------------------------------------------

    def _asked(self, method: str, url: str, body: bytes | None = None) -> tuple[int, str | None, bytes]:
        """Status, the server's date and the beginning of the answer. No text of ours holds the signature."""
        address = _origin(url)
        setting = "KWDBML_S3_ENDPOINT" if address == _origin(self._settings.endpoint) else "KWDBML_S3_POD_ENDPOINT"
        authority = str(self._settings.ca_file) if self._settings.ca_file else None
        try:
            with urllib3.PoolManager(ca_certs=authority) as pool:
                answer = pool.request(method, url, body=body, timeout=_PATIENCE, retries=False, redirect=False)
                return answer.status, answer.headers.get("Date"), answer.data
        except SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                what, cure = f"the object store at {address} does not speak TLS", f"Write http:// in {setting}."
                raise EngineError(what, hint=cure) from None
            raise EngineError(
                f"the object store at {address} has a certificate that is not trusted",
                hint=f"Give the certificate of its authority as KWDBML_S3_CA_FILE, or correct {setting}.",
                detail=str(error).partition("?")[0],
            ) from None
        except (HTTPError, OSError) as error:
            raise EngineError(
                f"the object store at {address} cannot be reached ({type(error).__name__})",
                hint=f"Correct {setting}, or start the store.",
            ) from None


def _origin(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))


def _another(text: str) -> EngineError:
    return EngineError(text, hint="Is it one store, without a cache between? Look at its log.")
