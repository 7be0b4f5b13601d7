"""What user code leaves behind is not believed: the job fails with a clear error, the worker lives, nothing leaks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kwdbml.engines.fake import FakeJob, FakeWorld
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import Site, result

CANARY = "root:x:canary"
Spoil = Callable[[Path], Any]

#: errors that say what is wrong in our words; anything else would be a bug's
OURS = {"InvalidParameter", "EngineError", "LimitExceeded", "Error"}


def _instead(name: str, make: Callable[[Path], Any]) -> Spoil:
    def spoil(outputs: Path) -> None:
        (outputs / name).unlink(missing_ok=True)
        make(outputs / name)

    return spoil


def _text(content: str, name: str = "result.json") -> Spoil:
    return _instead(name, lambda path: path.write_text(content))


def _canary(path: Path) -> Path:
    secret = path.parents[3] / "shadow"
    secret.write_text(CANARY)
    return secret


RESULTS: dict[str, Spoil] = {
    "a link": _instead("result.json", lambda p: p.symlink_to(_canary(p))),
    "a hard link": _instead("result.json", lambda p: os.link(_canary(p), p)),
    "a FIFO": _instead("result.json", os.mkfifo),
    "a directory": _instead("result.json", Path.mkdir),
    "missing": _instead("result.json", lambda p: None),
    "huge": _text('{"metrics": [], "pad": "' + "x" * (17 << 20) + '"}'),
    "no JSON": _text("{"),
    "no UTF-8": _instead("result.json", lambda p: p.write_bytes(b'{"metrics": "\xff"}')),
    "a list": _text("[]"),
    "deep": _text("[" * 100_000),
    "metrics no list": _text('{"metrics": 5}'),
    "metrics of text": _text('{"metrics": ["f1"]}'),
    "metric without score": _text('{"metrics": [{"objective": "f1"}]}'),
    "score of text": _text('{"metrics": [{"objective": "f1", "score": "high"}]}'),
    "score too large": _text('{"metrics": [{"objective": "f1", "score": 1' + "0" * 400 + "}]}"),
    "rows of text": _text('{"metrics": [], "rows_read": "many"}'),
    "infinitely many rows": _text('{"metrics": [], "rows_read": Infinity}'),
    "more rows than there are": _text('{"metrics": [], "rows_read": 1' + "0" * 30 + "}"),
    "libraries of numbers": _text('{"metrics": [], "libraries": [1]}'),
}

MODELS: dict[str, Spoil] = {
    "a link": _instead("model.zip", lambda p: p.symlink_to(_canary(p))),
    "a FIFO": _instead("model.zip", os.mkfifo),
    "missing": _instead("model.zip", lambda p: None),
}


async def _refused(
    site: Site, employ: Employ, world: FakeWorld, spoil: Spoil, submit: Callable[[], Any]
) -> dict[str, Any]:
    """The error of a job whose outputs were spoilt; its harmless twin succeeds on the same worker afterwards."""

    def script(job: FakeJob) -> int:
        code = plays.step(job)
        if spoiling:
            spoil(job.outputs)
        return code

    spoiling = True
    world.script = script
    await employ()
    error = await site.failed(await submit())
    assert CANARY not in json.dumps(error)
    assert error["type"] in OURS, error
    spoiling = False
    await site.succeeded(await submit())
    return error


@pytest.mark.parametrize("case", list(RESULTS))
async def test_result(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    await _refused(site, employ, world, RESULTS[case], site.train)
    assert await site.versions() == [(1, True)]


@pytest.mark.parametrize("case", list(MODELS))
async def test_model(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    error = await _refused(site, employ, world, MODELS[case], site.train)
    assert "model" in error["message"]


def _arrow(make: Callable[[], list[Any]]) -> Spoil:
    def spoil(outputs: Path) -> None:
        columns = make()
        table = pa.table({f"t{i}": c for i, c in enumerate(columns)})
        with pa.OSFile(str(outputs / "predictions.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    return spoil


def _bend(outputs: Path) -> None:
    """Text whose last offset points far beyond its bytes: the file is well-formed and would be read through."""
    path = outputs / "predictions.arrow"
    _arrow(lambda: [pa.array(["ab"] * 50)])(outputs)
    right = b"".join(n.to_bytes(4, "little") for n in (94, 96, 98, 100))
    content = path.read_bytes()
    assert content.count(right) == 1
    path.write_bytes(content.replace(right, right[:-4] + (1 << 30).to_bytes(4, "little")))


PREDICTIONS: dict[str, tuple[Spoil, str]] = {
    "too few": (_arrow(lambda: [pa.array(range(49))]), "fewer"),
    "too many": (_arrow(lambda: [pa.array(range(51))]), "more"),
    "none": (_arrow(lambda: [pa.array([], pa.int64())]), "fewer"),
    "text for a number": (_arrow(lambda: [pa.array(["many"] * 50)]), "are no int64"),
    "fractions for whole numbers": (_arrow(lambda: [pa.array([0.5] * 50)]), "are no int64"),
    "too large": (_arrow(lambda: [pa.array([1 << 63] * 50, pa.uint64())]), "are no int64"),
    "lists": (_arrow(lambda: [pa.array([[1]] * 50)]), "are no int64"),
    "no column": (_instead("predictions.arrow", lambda p: _arrow(list)(p.parent)), "prediction"),
    "a column too many": (_arrow(lambda: [pa.array(range(50)), pa.array(range(50))]), "prediction"),
    "corrupt offsets": (_bend, "prediction"),
    "corrupt bytes": (
        _instead("predictions.arrow", lambda p: p.write_bytes(b"ARROW1\0\0" + bytes(range(256)) * 9)),
        "prediction",
    ),
    "empty file": (_instead("predictions.arrow", lambda p: p.write_bytes(b"")), "prediction"),
    "missing": (_instead("predictions.arrow", lambda p: None), "prediction"),
    "a link": (_instead("predictions.arrow", lambda p: p.symlink_to(_canary(p))), "prediction"),
}


@pytest.mark.parametrize("case", list(PREDICTIONS))
async def test_predictions(site: Site, employ: Employ, world: FakeWorld, case: str) -> None:
    spoil, word = PREDICTIONS[case]
    await site.model(target=[{"name": "y", "type": "INT"}])
    error = await _refused(site, employ, world, spoil, site.predict)
    assert word in error["message"], error
    assert await site.value("SELECT count(*) FROM answers") == 50


async def test_wrong_type_of_text_target_is_written_as_text(site: Site, employ: Employ, world: FakeWorld) -> None:
    """What has an exact text is no error."""
    world.script = lambda job: plays.step(job) or _arrow(lambda: [pa.array(range(50))])(job.outputs) or 0
    await site.model(target=[{"name": "y", "type": "STRING"}])
    await employ()
    await site.succeeded(await site.predict())
    assert await site.value("SELECT max(y) FROM answers") == "9"


async def test_what_jsonb_cannot_hold_is_cleaned(site: Site, employ: Employ, world: FakeWorld) -> None:
    odd = [{"objective": "a\0b\ud800", "score": float("nan")}, {"objective": "c", "score": float("inf")}]

    def script(job: FakeJob) -> int:
        plays.step(job)
        (job.outputs / "result.json").write_text(
            result(metrics=odd, libraries={"n\0": "1\0"}, positive_label="\ud800\0")
        )
        return 0

    world.script = script
    await employ()
    answer = await site.succeeded(await site.train())
    assert [(m["objective"], m["score"]) for m in answer] == [("a\ufffdb?", None), ("c", None)]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"type": "X"}', '{"type": "X", "message": "\\u0000"}', '{"type": 1, "message": [2]}']
)
async def test_an_odd_error_is_still_one(site: Site, employ: Employ, world: FakeWorld, content: str) -> None:
    def script(job: FakeJob) -> int:
        (job.outputs / "error.json").write_text(content)
        return 1

    world.script = script
    await employ()
    error = await site.failed(await site.train())
    assert set(error) == {"type", "message", "step", "traceback"}


async def test_an_error_that_is_a_link_is_not_read(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        (job.outputs / "error.json").symlink_to(_canary(job.outputs / "error.json"))
        return 1

    world.script = script
    await employ()
    assert CANARY not in json.dumps(await site.failed(await site.train()))


async def test_odd_lines_are_kept_clean(site: Site, employ: Employ, world: FakeWorld) -> None:
    def script(job: FakeJob) -> int:
        job.print("a\0b")
        job.print("\x1b[31mred\r")
        return plays.step(job)

    world.script = script
    await employ()
    job = await site.train()
    await site.succeeded(job)
    assert len(await site.lines(job)) == 2
