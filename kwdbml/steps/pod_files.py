"""A pod's workspace: inputs fetched into it, outputs taken from it.

Outputs are written by user code: a link to a file that the step may not read, a FIFO, a second name of somebody else's
file are no outputs, and are told as such.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kwdbml.steps.pod_http import Expected, Failed, Http, Source

SMALL_LIMIT = 64 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Document = Callable[[], dict[str, Any]]


def make_workspace(path: Path, uid: int | None) -> None:
    """``in/`` to read, ``out/`` to write, for the step's user and nobody else."""
    for name in ("in", "out", "out/tmp"):
        (path / name).mkdir(mode=0o700)
    if uid is None:
        return
    for name in ("", "in"):
        os.chown(path / name, -1, uid)
        (path / name).chmod(0o750)
    for name in ("out", "out/tmp"):
        os.chown(path / name, uid, uid)


class _OtherTurn(Exception):
    """The addresses are another launch's now, whose inputs may be other rows."""


def fetch_inputs(http: Http, document: Document, inputs: Path, said: Callable[[float], None]) -> None:
    """Download and verify everything, then make files of it (``kwdbml.travel``). Failed names what went wrong. All are
    of the same turn: that of the document as it is afterwards."""
    while True:
        try:
            return _fetch_inputs(http, document, inputs, said)
        except _OtherTurn:
            for path in inputs.iterdir():
                path.unlink()


def _fetch_inputs(http: Http, document: Document, inputs: Path, said: Callable[[float], None]) -> None:
    from kwdbml import travel  # pyarrow takes its time, and the step must not wait for it

    items, turn = document()["inputs"], document()["turn"]
    sent = document().get("python")
    if any(item["name"] in travel.PACKAGES.values() for item in items) and sent != travel.python_tag():
        raise Failed(
            f"the bundles' requirements were installed for {sent}, which is the worker's, and this image has "
            f"{travel.python_tag()}: use an image with the worker's Python, or put the wheels into modules.zip"
        )
    whole, done = sum(item["bytes"] for item in items) or 1, 0
    for number, item in enumerate(items):
        name = item["name"]
        if not travel.plain_name(name):
            raise Failed(f"the input {name!r} has no name that can be")

        def address(number: int = number) -> str:
            if document()["turn"] != turn:
                raise _OtherTurn
            return str(document()["inputs"][number]["url"])

        with (inputs / name).open("xb") as file:
            http.download(address, file, Expected(item["bytes"], item["sha256"]), f"in/{name}")
            os.fchmod(file.fileno(), 0o444)
        done += item["bytes"]
        said(done / whole)
    if document()["turn"] != turn:  # new addresses came when the last byte was there
        raise _OtherTurn
    try:
        travel.unfold(inputs)
    except (travel.BadCargo, ValueError, OSError) as error:
        raise Failed(f"an input cannot be unpacked: {error}") from error
    for path in inputs.iterdir():
        path.chmod(0o755 if path.is_dir() else 0o444)


def send_outputs(http: Http, document: Document, outputs: Path) -> dict[str, Any]:
    """Upload what there is of the outputs asked for; the manifest's lists of them."""
    sent: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    directory = os.open(outputs, _DIRECTORY)
    try:
        for name in document()["outputs"]:
            place = document()["outputs"][name]
            try:
                file = open_output(directory, name, sum(place.get("sizes", [SMALL_LIMIT])))
            except ValueError as error:
                refused.append({"name": name, "problem": str(error)})
                continue
            if file is not None:
                with file:
                    sent.append({"name": name, **_send(http, document, name, file)})
    finally:
        os.close(directory)
    return {"outputs": sent, "refused": refused}


def open_output(directory: int, name: str, limit: int) -> BinaryIO | None:
    """None when there is no such file; ValueError with a phrase when it is none that can be taken."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}") from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        problem = "is not a plain file"
    elif found.st_nlink != 1:
        problem = "goes by a second name (a hard link)"
    elif found.st_size > limit:
        problem = f"has {found.st_size:,} bytes, more than the {limit:,} allowed"
    else:
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise ValueError(problem)


def _send(http: Http, document: Document, name: str, file: BinaryIO) -> dict[str, Any]:
    size, digest, what = os.fstat(file.fileno()).st_size, hashlib.sha256(), f"out/{name}"
    sizes, parts, begin = document()["outputs"][name].get("sizes"), [], 0
    if sizes is None and size:
        source = Source(file, 0, size, digest)
        http.upload(lambda: str(document()["outputs"][name]["put"]), source, what)
    for number, room in enumerate(sizes or ()):
        if begin >= size:
            break

        def address(number: int = number) -> str:
            return str(document()["outputs"][name]["parts"][number])

        end = min(size, begin + room)
        parts.append({"number": number + 1, "etag": http.upload(address, Source(file, begin, end, digest), what)})
        begin = end
    return {"bytes": size, "sha256": digest.hexdigest(), "parts": parts}


def send_bytes(http: Http, address: Callable[[], str], content: bytes, what: str) -> dict[str, Any]:
    """A small object of our own."""
    import io

    digest = hashlib.sha256()
    http.upload(address, Source(io.BytesIO(content), 0, len(content), digest), what)
    return {"bytes": len(content), "sha256": digest.hexdigest()}
