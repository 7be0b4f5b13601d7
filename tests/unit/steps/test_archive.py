"""ZIP files that mean harm stay in their directory and within their size; a harmless one is unpacked."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from kwdbml.steps import archive
from kwdbml.steps.failure import BadBundle
from tests.fixtures.bundles import zipped


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file beside the directory that is unpacked into."""
    path = tmp_path / "canary"
    path.write_text("untouched")
    return path


def unpack(tmp_path: Path, content: bytes, max_bytes: int = archive.MAX_BYTES) -> Path:
    (tmp_path / "b.zip").write_bytes(content)
    archive.unpack(tmp_path / "b.zip", tmp_path / "b", what="the bundle", max_bytes=max_bytes)
    return tmp_path / "b"


def test_a_harmless_one(tmp_path: Path) -> None:
    directory = unpack(tmp_path, zipped({"a/b.txt": "1", "a/c/": "", "d.txt": "2"}))
    assert (directory / "a" / "b.txt").read_text() == "1"
    assert (directory / "a" / "c").is_dir()


@pytest.mark.parametrize(
    "name", ["../canary", "a/../../canary", "/canary", "a\\..\\..\\canary", "C:canary", "C:/canary", "..", "/", "a/.."]
)
def test_paths_that_leave(tmp_path: Path, canary: Path, name: str) -> None:
    with pytest.raises(BadBundle, match="does not stay inside"):
        unpack(tmp_path, zipped({"good.txt": "", name: "x"}))
    assert canary.read_text() == "untouched"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(tmp_path: Path, canary: Path, kind: int) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr(info, str(canary))
    with pytest.raises(BadBundle, match="link or device"):
        unpack(tmp_path, buffer.getvalue())
    assert not list((tmp_path / "b").iterdir())


def test_an_expansion_past_the_limit(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("zeros", bytes(3_000_000))
    with pytest.raises(BadBundle, match="expands to more than 1000000 bytes"):
        unpack(tmp_path, buffer.getvalue(), max_bytes=1_000_000)
    (tmp_path / "b.zip").unlink()
    assert (unpack(tmp_path, buffer.getvalue(), max_bytes=3_000_000) / "zeros").stat().st_size == 3_000_000


def test_a_header_that_lies_about_the_size(tmp_path: Path) -> None:
    """The central directory says 10 bytes; what comes out is what counts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("zeros", bytes(3_000_000))
    content = bytearray(buffer.getvalue())
    size = (3_000_000).to_bytes(4, "little")
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(BadBundle):
        unpack(tmp_path, bytes(content), max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "b").iterdir()) <= 1_000_000


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_the_same_path_twice(tmp_path: Path, names: tuple[str, str]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name in names:
            bundle.writestr(name, "x")
    with pytest.raises(BadBundle, match="twice"):
        unpack(tmp_path, buffer.getvalue())


def test_a_password(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": "x"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    with pytest.raises(BadBundle, match="cannot be unpacked"):
        unpack(tmp_path, bytes(content))


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(BadBundle, match="3 files, more than 2"):
        unpack(tmp_path, zipped({"a": "", "b": "", "c": ""}))


def test_packing_gives_the_same_bytes_and_no_links(tmp_path: Path, canary: Path) -> None:
    source = tmp_path / "source"
    (source / "__pycache__").mkdir(parents=True)
    (source / "__pycache__" / "a.pyc").write_bytes(b"x")
    (source / "b").write_text("b")
    (source / "a").write_text("a")
    (source / "link").symlink_to(canary)
    archive.pack(tmp_path / "one.zip", source)
    os.utime(source / "a", (0, 0))
    archive.pack(tmp_path / "two.zip", source)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as bundle:
        assert bundle.namelist() == ["a", "b"]
