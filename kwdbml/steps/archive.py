"""ZIP files in and out: unpacked without leaving the directory or filling the disk, packed as a stream.

The server has looked at a bundle's central directory already; here it is checked again, since what is counted here
are the bytes that really come out.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kwdbml.steps.failure import BadBundle, BadReturn

MAX_FILES = 100_000
#: Bytes that a ZIP may become: so much always, and beyond it so many times its own size.
MAX_BYTES = 1 << 30
MAX_RATIO = 20
_CHUNK = 1 << 20
#: Others may need any amount of memory to unpack; the server refuses them too.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
#: What ``zipfile`` raises for damaged files, besides BadZipFile.
_DAMAGED = (zlib.error, EOFError, struct.error, UnicodeError, ValueError, OverflowError)
_TIME = (1980, 1, 1, 0, 0, 0)  # the same content is the same bytes


def unpack(archive: Path, directory: Path, *, what: str, max_bytes: int = MAX_BYTES) -> None:
    """The ZIP's files below ``directory``. BadBundle when a path leaves it, for links, and past the limits."""
    limit = max(max_bytes, MAX_RATIO * archive.stat().st_size)
    directory.mkdir(parents=True, exist_ok=True)
    with _explained(what, directory), zipfile.ZipFile(archive) as bundle:
        members = bundle.infolist()
        if len(members) > MAX_FILES:
            raise BadBundle(f"{what} has {len(members)} files, more than {MAX_FILES}")
        left = limit
        for member in members:
            path = directory / safe_path(member, what)
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                left -= _write(bundle, member, path, left, f"{what} expands to more than {limit} bytes")


@contextmanager
def _explained(what: str, directory: Path) -> Iterator[None]:
    """Whatever ``zipfile`` and the file system say about a bad ZIP, as BadBundle."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise BadBundle(f"{what} is not a ZIP file that can be read: {error}") from error
    except (NotImplementedError, RuntimeError) as error:  # a password, a rare kind of entry
        raise BadBundle(f"{what} cannot be unpacked: {error}") from error
    except _DAMAGED as error:
        raise BadBundle(f"{what} is damaged: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = Path(error.filename).relative_to(directory) if error.filename else "?"
        raise BadBundle(f"{what} holds {name} twice, or as file and directory") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadBundle(f"{what} holds a path that is too long") from error
        if error.errno == errno.EINVAL:  # an entry that says that it begins before the file does
            raise BadBundle(f"{what} is damaged: {error}") from error
        raise


def safe_path(member: zipfile.ZipInfo, what: str) -> PurePosixPath:
    """The member's path when it stays inside, else BadBundle."""
    name = member.filename
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise BadBundle(f"{what} holds the path {name!r}, which does not stay inside the bundle")
    if "\0" in member.orig_filename:
        raise BadBundle(f"{what} holds the path {member.orig_filename!r}, which ends at a NUL byte")
    if member.compress_type not in _METHODS:
        raise BadBundle(f"{what} holds {name!r} compressed in another way than deflate; pack it with deflate")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadBundle(f"{what} holds {name!r}, which is a link or device; only plain files are taken")
    return path


def _write(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int, too_large: str) -> int:
    """Bytes written; never more than ``left``, whatever the header says."""
    if member.file_size > left:
        raise BadBundle(too_large)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with bundle.open(member) as source, path.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise BadBundle(too_large)
            sink.write(chunk)
    return written


def pack(archive: Path, directory: Path) -> None:
    """All plain files below ``directory`` as a ZIP, stored, by name; links and byte code are left out."""
    partial = archive.with_name(archive.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as bundle:
        for path in plain_files(directory):
            name = path.relative_to(directory).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError:
                raise BadReturn(f"a file's name is no text: {os.fsencode(name)!r}", hint="name it in UTF-8") from None
            member = zipfile.ZipInfo(name, _TIME)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            with path.open("rb") as source, bundle.open(member, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
    partial.replace(archive)


def plain_files(directory: Path) -> Iterator[Path]:
    """Files below the directory, sorted, without following links."""
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path
