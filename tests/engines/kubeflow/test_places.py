"""One root for the engines of several workers: nobody loses what he has, and nobody falls over another one's sweep."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import kwdbml
from kwdbml.engines.kfp import places as module
from kwdbml.engines.kfp.places import Places

MINE, ITS = "0" * 16, "1" * 16
#: Another worker, in a container of its own that has the same volume.
OTHER = """
import sys
from pathlib import Path
from kwdbml.engines.kfp.places import Places
place = Places(Path(sys.argv[1])).make(sys.argv[2])
print(place, flush=True)
sys.stdin.read()
"""
CONTAINER = ("bwrap", "--bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--dev", "/dev", "--die-with-parent")


@pytest.fixture
def make_places(tmp_path: Path) -> Iterator[Callable[[], Places]]:
    made: list[Places] = []

    def make() -> Places:
        made.append(Places(tmp_path / "kubeflow"))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def mine(make_places: Callable[[], Places]) -> Places:
    return make_places()


def slots(places: Places) -> list[str]:
    return sorted(path.name for path in places.root.iterdir() if path.is_dir())


def test_a_worker_in_another_container_keeps_its_places(mine: Places) -> None:
    command = [*CONTAINER, sys.executable, "-c", OTHER, str(mine.root), ITS]
    source = str(Path(kwdbml.__file__).parents[1])
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": source}
    )
    with process:
        assert process.stdout is not None
        try:
            assert ITS in process.stdout.readline()
            mine.make(MINE)
            mine.sweep()
            assert slots(mine) == [MINE, ITS]
        finally:
            process.kill()
        process.stdout.read()  # what is in the container ends after it
    while slots(mine) != [MINE]:
        mine.sweep()
    assert len(list(mine.root.glob("ctl-*.lock"))) == 1


def test_workers_that_start_at_once(make_places: Callable[[], Places]) -> None:
    """Each finds the same copies of a third one, which is gone."""
    gone, workers = make_places(), [make_places() for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            for number in range(20):
                gone.make(f"{number:016x}")
            gone.close()
            assert [done.result() for done in [threads.submit(one.sweep) for one in workers]] == [None, None]
            assert slots(gone) == []


def test_owners_that_let_go_at_once(make_places: Callable[[], Places]) -> None:
    owners = [make_places() for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            for one in owners:
                one.make(MINE)
            assert [done.result() for done in [threads.submit(one.let_go, MINE) for one in owners]] == [None, None]
            assert slots(owners[0]) == []


def test_what_is_no_place_stays(mine: Places) -> None:
    mine.root.mkdir()
    (mine.root / "stray").write_text("x")
    (mine.root / ITS).write_text("x")
    (mine.root / "somebodys").mkdir()
    mine.sweep()
    assert sorted(path.name for path in mine.root.iterdir() if not path.suffix) == [".lock", ITS, "somebodys", "stray"]


@pytest.mark.parametrize("way", ["sweep", "remove", "let_go"])
def test_what_cannot_be_deleted_is_deleted_later(
    make_places: Callable[[], Places], mine: Places, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "sweep":
        other = make_places()
        other.make(ITS)
        other.close()
    mine.make(MINE)

    def refuse(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_tree", refuse)
        mine.sweep() if way == "sweep" else getattr(mine, way)(MINE)
    assert ITS not in slots(mine)
    assert slots(mine)
    mine.sweep()
    assert slots(mine) == ([MINE] if way == "sweep" else [])


def test_what_a_worker_was_deleting_when_it_died(make_places: Callable[[], Places], mine: Places) -> None:
    other = make_places()
    other._aside(other.make(MINE).parent)
    mine.make(ITS)
    mine.sweep()
    assert len(slots(mine)) == 2, "it is at it"
    other.close()
    mine.sweep()
    assert slots(mine) == [ITS]
