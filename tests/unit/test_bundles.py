"""ZIP files that mean harm, at both gates: the directory that the server reads, and the step that unpacks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kwdbml.errors import KwdbmlError
from kwdbml.plpy import bundles
from kwdbml.steps import archive
from kwdbml.steps.bundle import Bundle
from kwdbml.steps.failure import BadBundle, BadReturn
from tests.fixtures import zips
from tests.fixtures.bundles import zipped

LIMIT = 100 << 20
GOOD = zips.good()


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants the content of an entry fails."""

    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("the content of an entry was asked for")

    monkeypatch.setattr(zipfile.ZipExtFile, "__init__", refuse)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.write_text("untouched")
    return path


def unpacked(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "b.zip").write_bytes(content)
    archive.unpack(tmp_path / "b.zip", tmp_path / "b", what="the bundle")
    return tmp_path / "b"


@pytest.mark.usefixtures("never_opened")
def test_a_harmless_one_at_import() -> None:
    assert bundles.names(GOOD, "pipeline_entity", LIMIT) == {"pipeline/train.py", "pipeline/other.py"}
    prefixed, commented = b"#!/bin/sh\n" + GOOD, GOOD[:-2] + b"\2\0hi"
    assert bundles.names(prefixed, "pipeline_entity", LIMIT) == bundles.names(commented, "pipeline_entity", LIMIT)


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize(("make", "sqlstate", "word"), zips.REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_what_the_server_refuses(make: Callable[[], bytes], sqlstate: str, word: str) -> None:
    with pytest.raises(KwdbmlError, match=word) as caught:
        bundles.names(make(), "pipeline_entity", LIMIT)
    assert caught.value.sqlstate == sqlstate
    assert "pipeline_entity" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(("make", "word"), zips.FOUND_INSIDE, ids=lambda value: getattr(value, "__name__", None))
def test_what_unpacking_shows(tmp_path: Path, canary: Path, make: Callable[[], bytes], word: str) -> None:
    assert "pipeline/train.py" in bundles.names(make(), "pipeline_entity", LIMIT), "no content was looked at"
    with pytest.raises(BadBundle, match=word):
        unpacked(tmp_path, make())
    assert canary.read_text() == "untouched"


@pytest.mark.parametrize("make", [make for make, *_ in zips.REFUSED if make not in (zips.overlapping, zips.many)])
def test_the_step_refuses_what_came_another_way(tmp_path: Path, canary: Path, make: Callable[[], bytes]) -> None:
    with pytest.raises(BadBundle, match="the bundle"):
        unpacked(tmp_path, make())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.zip", "canary"]
    assert canary.read_text() == "untouched"


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as modules:
        link = zipfile.ZipInfo("helper.py")
        link.external_attr = 0o120777 << 16
        modules.writestr(link, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize("wheel", [False, True])
@pytest.mark.parametrize(
    "make",
    [linked, lambda: zipped({"../canary": b"x"}), lambda: zipped({"/canary": b"x"}), zips.damaged, zips.lzma],
)
def test_what_lies_inside_a_bundle_is_no_way_around(
    tmp_path: Path, canary: Path, make: Callable[[], bytes], *, wheel: bool
) -> None:
    """modules.zip, and a wheel in it."""

    def bundle(content: bytes, home: str) -> Bundle:
        modules = zipped({"own-1.0-py3-none-any.whl": content}) if wheel else content
        (tmp_path / "b.zip").write_bytes(zipped({zips.GOOD: zips.CODE, "modules.zip": modules}))
        return Bundle.unpack(tmp_path / "b.zip", tmp_path / home / "b", "the bundle", "pipeline")

    with pytest.raises(BadBundle, match=r"the bundle's modules\.zip"):
        bundle(make(), "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.zip", "canary", "in"]
    assert canary.read_text() == "untouched"
    assert bundle(zipped({"helper.py": b""}), "twin").has(zips.GOOD)


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12))
@example([(len(GOOD) - 10, 255)])
def test_any_damage_is_a_clear_error_at_import(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, value in changes:
        content[at] = value
    try:
        bundles.names(bytes(content), "pipeline_entity", LIMIT)
    except KwdbmlError as error:
        assert error.hint  # noqa: PT017 - it need not be raised


@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_any_damage_is_a_bad_bundle_in_the_step(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(GOOD)
    for at, value in changes:
        content[at] = value
    place = tmp_path_factory.mktemp("unpacked")
    try:
        unpacked(place, bytes(content))
    except BadBundle as error:
        assert error.message  # noqa: PT017 - it need not be raised
    assert {path.name for path in place.iterdir()} <= {"b", "b.zip"}


def test_a_file_whose_name_is_no_text_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "línea\n").write_text("twin")
    archive.pack(tmp_path / "twin.zip", tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "twin.zip") as bundle:
        assert bundle.namelist() == ["línea\n"]
    Path(str(tmp_path / "model" / "no\udcfftext")).write_text("x")
    with pytest.raises(BadReturn, match="no text"):
        archive.pack(tmp_path / "model.zip", tmp_path / "model")
    assert not (tmp_path / "model.zip").exists()
