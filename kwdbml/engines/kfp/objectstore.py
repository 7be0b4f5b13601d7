"""The S3 store that worker and pods share: every run's files below one prefix, streamed both ways in bounded memory.

    s3://BUCKET/PREFIX/<run>/in/<turn>/…  out/…  access/…  pipeline/…

Synchronous and thread-safe; the engine calls it in threads. Pods have no key: they get addresses that were signed here
(``url_get``, ``url_put``, ``url_part``) for the store's address as pods know it. Errors are in ``storeerrors.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from botocore.exceptions import ClientError

from kwdbml.engines.kfp import ending
from kwdbml.engines.kfp.s3client import s3client
from kwdbml.engines.kfp.settings import S3Settings
from kwdbml.engines.kfp.storeerrors import StoreError, explained, is_missing, on_disk
from kwdbml.errors import EngineError

_CHUNK = 1 << 20
_MOST_PARTS = 10_000
_TRIES = 5  # of a download that brings nothing more; botocore's own tries come on top
_LONGEST = 7 * 86400  # seconds that SigV4 lets a signature hold


class Stored(NamedTuple):
    """What lies in the store, or should: compared in both directions."""

    bytes: int
    sha256: str


class Part(NamedTuple):
    number: int
    etag: str


class ObjectStore:
    """One bucket, below one prefix."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        with explained(settings, "setting up the object store"):
            self._client = s3client(settings, settings.endpoint)
            same = settings.pod_endpoint == settings.endpoint
            self._signer = self._client if same else s3client(settings, settings.pod_endpoint)

    # -- names ---------------------------------------------------------------------------------------------------

    def key(self, run: str, *parts: str) -> str:
        """The key of a run's file; without parts the run's prefix."""
        if not run or "/" in run or run in (".", ".."):
            raise ValueError(f"{run!r} is no name of a run")
        return "/".join((self.settings.prefix, run, *parts))

    def uri(self, run: str, *parts: str) -> str:
        return f"s3://{self.settings.bucket}/{self.key(run, *parts)}"

    # -- objects -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """StoreError, with its cure, when the store cannot be read."""
        with self._doing("looking at the object store"):
            self._client.list_objects_v2(Bucket=self.settings.bucket, Prefix=self.settings.prefix + "/", MaxKeys=1)

    def put(self, key: str, content: bytes) -> Stored:
        with self._doing(f"writing {self._shown(key)}"):
            self._client.put_object(Bucket=self.settings.bucket, Key=key, Body=content)
        return Stored(len(content), hashlib.sha256(content).hexdigest())

    def get(self, key: str, *, limit: int) -> bytes | None:
        """A small object; None when it is not there, EngineError when it is longer than ``limit``."""
        with self._doing(f"reading {self._shown(key)}"):
            try:
                answer = self._client.get_object(Bucket=self.settings.bucket, Key=key)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
            with contextlib.closing(answer["Body"]) as body:
                content: bytes = body.read(limit + 1)
        if len(content) > limit:
            raise EngineError(f"{self._shown(key)} in the object store is longer than {limit:,} bytes")
        return content

    def size(self, key: str) -> int | None:
        """Bytes of an object; None when it is not there. By a list, because the answer to HEAD has no body: a 404 of
        something before the store would look the same."""
        with self._doing(f"looking at {self._shown(key)}"):
            return next((int(item["Size"]) for page in self._pages(key) for item in page if item["Key"] == key), None)

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    @contextmanager
    def writer(self, key: str) -> Iterator[Writer]:
        """Write an object of unknown length from its beginning to its end; it appears when this ends without error."""
        writer = Writer(self, key)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.give_up()
            raise

    def send(self, key: str, source: BinaryIO | Iterable[bytes]) -> Stored:
        """A file, or pieces of one, into the store: one part of it is in memory at a time."""
        pieces = iter(lambda: source.read(_CHUNK), b"") if hasattr(source, "read") else source
        with self.writer(key) as writer:
            for piece in pieces:
                writer.write(piece)
        return writer.stored

    def fetch(self, key: str, path: Path, expected: Stored) -> None:
        """An object into a file ``path``, which appears when it is whole and is what was expected. Under a name of its
        own until then: somebody who has lost his lease may be fetching the same."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with on_disk(path.name):
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    self.copy(key, file, expected)
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def copy(self, key: str, sink: BinaryIO, expected: Stored) -> None:
        """An object into an open file; a broken connection is taken up where it broke. EngineError when it is not what
        was expected."""
        digest, done, tries = hashlib.sha256(), 0, 0
        while done < expected.bytes:
            before = done
            try:
                with self._doing(f"reading {self._shown(key)}"):
                    for chunk in self._from(key, done):
                        ending.go_on()
                        done += len(chunk)
                        digest.update(chunk)
                        sink.write(chunk)
                        if done > expected.bytes:
                            break
                if done == before:
                    break  # the object is shorter than it should be
            except StoreError as error:
                tries = 1 if done > before else tries + 1
                if not error.retryable or tries >= _TRIES:
                    raise
                _pause(tries)
        if done != expected.bytes or digest.hexdigest() != expected.sha256:
            raise damaged(self._shown(key), expected, done)

    def _from(self, key: str, offset: int) -> Iterator[bytes]:
        try:
            answer = self._client.get_object(Bucket=self.settings.bucket, Key=key, Range=f"bytes={offset}-")
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code")) in ("InvalidRange", "416"):
                return
            raise
        with contextlib.closing(answer["Body"]) as body:
            yield from body.iter_chunks(_CHUNK)

    # -- uploads in parts ----------------------------------------------------------------------------------------

    def begin(self, key: str) -> str:
        """A new multi-part upload's id."""
        with self._doing(f"writing {self._shown(key)}"):
            return str(self._client.create_multipart_upload(Bucket=self.settings.bucket, Key=key)["UploadId"])

    def part(self, key: str, upload: str, number: int, content: bytes | bytearray) -> Part:
        with self._doing(f"writing {self._shown(key)}"):
            answer = self._client.upload_part(
                Bucket=self.settings.bucket, Key=key, UploadId=upload, PartNumber=number, Body=content
            )
        return Part(number, str(answer["ETag"]))

    def complete(self, key: str, upload: str, parts: Sequence[Part]) -> None:
        """Make one object of the parts. StoreError with ``missing`` when there is no such upload (any more)."""
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        with self._doing(f"completing {self._shown(key)}"):
            self._client.complete_multipart_upload(
                Bucket=self.settings.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
            )

    def abort(self, key: str, upload: str) -> None:
        """Forget an unfinished upload; no error when it is gone."""
        with self._doing(f"giving up {self._shown(key)}"):
            try:
                self._client.abort_multipart_upload(Bucket=self.settings.bucket, Key=key, UploadId=upload)
            except ClientError as error:
                if not is_missing(error):
                    raise

    def unfinished(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Unfinished uploads below a prefix, as the store lists them (Key, UploadId, Initiated)."""
        with self._doing("listing unfinished uploads"):
            pages = self._client.get_paginator("list_multipart_uploads")
            try:
                for page in pages.paginate(Bucket=self.settings.bucket, Prefix=prefix):
                    yield from page.get("Uploads", ())
            except ClientError as error:  # so some stores say that a bucket has none
                if not is_missing(error):
                    raise

    # -- addresses for pods --------------------------------------------------------------------------------------

    def url_get(self, key: str, seconds: int) -> str:
        return self._signed("get_object", seconds, Key=key)

    def url_put(self, key: str, seconds: int) -> str:
        return self._signed("put_object", seconds, Key=key)

    def url_part(self, key: str, upload: str, number: int, seconds: int) -> str:
        return self._signed("upload_part", seconds, Key=key, UploadId=upload, PartNumber=number)

    def _signed(self, action: str, seconds: int, **what: object) -> str:
        wanted = {"Bucket": self.settings.bucket, **what}
        return str(self._signer.generate_presigned_url(action, Params=wanted, ExpiresIn=min(seconds, _LONGEST)))

    # -- all of a run --------------------------------------------------------------------------------------------

    def delete_run(self, run: str) -> None:
        """Everything below the run's prefix; may be called twice."""
        prefix = self.key(run, "")
        for upload in list(self.unfinished(prefix)):
            self.abort(upload["Key"], upload["UploadId"])
        with self._doing(f"deleting {prefix}"):
            for page in self._pages(prefix):
                keys = [{"Key": found["Key"]} for found in page]
                answer = self._client.delete_objects(
                    Bucket=self.settings.bucket, Delete={"Objects": keys, "Quiet": True}
                )
                for refused in answer.get("Errors", ()):
                    what = f"{self._shown(refused['Key'])} cannot be deleted: {refused.get('Code')}"
                    raise StoreError(what, hint="Allow the access key to delete.", retryable=True)

    def runs(self) -> dict[str, float]:
        """The runs that have something here, each with when its newest file was written (seconds since the epoch)."""
        top = self.settings.prefix + "/"
        newest: dict[str, float] = {}
        with self._doing(f"listing {top}"):
            found = [(item["Key"], item["LastModified"]) for page in self._pages(top) for item in page]
        found += [(item["Key"], item["Initiated"]) for item in self.unfinished(top)]
        for key, at in found:
            name, slash, _ = str(key).removeprefix(top).partition("/")
            if slash and name:
                newest[name] = max(newest.get(name, 0.0), at.timestamp())
        return newest

    def names(self, prefix: str) -> list[tuple[str, float]]:
        """The keys below a prefix and when each was written."""
        with self._doing(f"listing {self._shown(prefix)}"):
            return [(i["Key"], i["LastModified"].timestamp()) for page in self._pages(prefix) for i in page]

    def _pages(self, prefix: str) -> Iterator[list[dict[str, Any]]]:
        """At most a thousand objects each, none empty."""
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.settings.bucket, Prefix=prefix):
            if page.get("Contents"):
                yield page["Contents"]

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        with explained(self.settings, what):
            yield

    def _shown(self, key: str) -> str:
        return key.removeprefix(self.settings.prefix + "/")


class Writer:
    """An object that is being written: a file for pyarrow and tarfile. One part of it is in memory."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._buffer = bytearray()
        self._part_size = int(store.settings.part_size)
        self._upload: str | None = None
        self._parts: list[Part] = []
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.closed = False

    @property
    def stored(self) -> Stored:
        return Stored(self._bytes, self._digest.hexdigest())

    def write(self, data: bytes | memoryview) -> int:
        ending.go_on()
        self._digest.update(data)
        self._bytes += len(data)
        view = memoryview(data)
        while view:
            piece = view[: self._part_size - len(self._buffer)]
            self._buffer += piece
            view = view[len(piece) :]
            if len(self._buffer) >= self._part_size:
                self._send()
        return len(data)

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        """Parts are sent when they are full."""

    def close(self) -> None:
        """For the libraries that write here; the object is made by ``finish``."""
        self.closed = True

    def finish(self) -> None:
        """The object appears."""
        if self._upload is None:
            self._store.put(self._key, bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._store.complete(self._key, self._upload, self._parts)

    def give_up(self) -> None:
        """Nothing appears. Never raises: there was an error already, and the sweep comes later."""
        if self._upload is not None:
            with contextlib.suppress(EngineError):
                self._store.abort(self._key, self._upload)

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._store.begin(self._key)
        number = len(self._parts) + 1
        if number > _MOST_PARTS:
            most = self._part_size * _MOST_PARTS >> 30
            raise EngineError(
                f"{self._key} is longer than {most:,} GiB, {_MOST_PARTS:,} parts of the size set",
                hint="Set KWDBML_S3_PART_SIZE higher.",
            )
        self._parts.append(self._store.part(self._key, self._upload, number, self._buffer))
        self._buffer = bytearray()


def damaged(name: str, expected: Stored, found: int) -> EngineError:
    """The error for a file that is not what it was when it was written."""
    same = "as it should" if found == expected.bytes else f"and should have {expected.bytes:,}"
    return EngineError(
        f"{name} is damaged: its SHA-256 is not the recorded one",
        detail=f"it has {found:,} bytes, {same}",
        hint="Run the job again; if it happens again, look for who else writes to the bucket.",
        retryable=True,
    )


def _pause(tries: int) -> None:
    time.sleep(min(10.0, 0.25 * 2**tries) * random.uniform(0.5, 1.0))
