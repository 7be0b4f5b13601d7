"""The engine's small parts on their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwdbml.engines import seccomp
from kwdbml.engines.cgroups import Cgroup, usable
from kwdbml.engines.joblog import LogWriter
from kwdbml.engines.logreader import LogReader
from kwdbml.engines.nameless import Nameless, shared_memory
from kwdbml.engines.sandbox import runtime_paths
from kwdbml.engines.slots import Slot, Started
from kwdbml.engines.trees import disk_usage, measure, open_beneath, remove_tree
from kwdbml.engines.watch import DISK_RESERVE, Group, Limits, Watch
from kwdbml.loglines import LINE, LineSplitter, split_long


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_bytes_arrive(chunks: list[bytes]) -> None:
    whole, parts = LineSplitter(), LineSplitter()
    data = b"".join(chunks)
    expected = whole.feed(data) + whole.feed(b"", final=True)
    found = [line for chunk in chunks for line in parts.feed(chunk)] + parts.feed(b"", final=True)
    assert found == expected
    assert not any("\0" in line or "\n" in line for line in found)


@given(st.text(alphabet="aé€😀", min_size=0, max_size=9000))
def test_long_lines_are_split_between_characters(text: str) -> None:
    pieces = split_long(text)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= LINE for piece in pieces)


def test_a_log_of_a_few_bytes_keeps_its_head_and_tail(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path), head=200, tail=400, segment=100)
    reader = LogReader(tmp_path)
    live: list[int] = []
    for number in range(1, 101):
        writer.feed("stdout", f"{number}\n".encode(), "train")
        live += [line.seq for line in reader.read(live[-1] if live else 0).lines]
    writer.close("train")
    assert live == list(range(1, 101)), "who reads along loses nothing"
    chunk = LogReader(tmp_path).read()
    head = [line.seq for line in chunk.lines]
    rest = LogReader(tmp_path).read(chunk.cursor)
    tail = [line.seq for line in rest.lines]
    assert rest.cut == (head[-1] + 1, tail[0] - 1)
    assert head == list(range(1, 1 + len(head)))
    assert tail == list(range(tail[0], 101))
    assert len(head) < 10
    assert len(tail) >= 400 // 35


def test_a_half_written_batch_is_left_for_later(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path))
    writer.feed("stdout", b"one\n", "")
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq": 2, "at"')
    reader = LogReader(tmp_path)
    assert [line.line for line in reader.read().lines] == ["one"]
    path.write_bytes(whole + whole.replace(b'"seq": 1', b'"seq": 2'))
    assert [line.seq for line in reader.read(1).lines] == [2]
    writer.close("")


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("here")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(canary)
    (tree / "link").symlink_to(canary / "file")
    os.mkfifo(tree / "a" / "b" / "pipe")
    remove_tree(str(tree))
    remove_tree(str(tree))
    assert not tree.exists()
    assert (canary / "file").read_text() == "here"


def test_remove_tree_meets_names_like_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (".kwdbml-0", ".kwdbml-1", ".kwdbml-2"):
        (tree / name / ".kwdbml-1" / "a").mkdir(parents=True)
        (tree / name / "file").write_text("")
    (tree / ".kwdbml-3").write_text("")
    remove_tree(str(tree))
    assert not tree.exists()


def test_a_file_that_goes_while_we_look_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"f{number}").write_bytes(b"x" * 4096)
    scandir = os.scandir

    def then_gone(path: str) -> Any:
        """A listing whose first entry is deleted before anybody looks at it."""
        with scandir(path) as listing:
            entries = list(listing)
        os.unlink(entries[0].path)
        return contextlib.nullcontext(entries)

    monkeypatch.setattr("kwdbml.engines.trees.os.scandir", then_gone)
    assert measure(str(tmp_path), 1 << 30).size == 19 * 4096


def test_disk_usage(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "link").symlink_to("/usr")
    used = disk_usage(str(tmp_path), 1 << 20)
    assert used is not None
    assert 100_000 <= used < 200_000
    assert disk_usage(str(tmp_path), 50_000) is None
    assert disk_usage(str(tmp_path), 1 << 20, most_entries=2) is None


@pytest.mark.parametrize("name", ["..", ".", "", "a/../b", "/etc/passwd", "a//b"])
def test_open_beneath_takes_plain_relative_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no path below"):
        open_beneath(str(tmp_path), name, 1)


def test_the_filter_is_a_well_formed_program() -> None:
    program = seccomp.program()
    assert program is not None, "this machine's architecture has no table of system calls"
    code = list(struct.iter_unpack("HBBI", program))
    for position, (operation, when_true, when_false, _) in enumerate(code):
        if operation & 7 == 5:  # a jump stays inside
            assert position + 1 + max(when_true, when_false) < len(code)
    assert code[-1][0] & 7 == 6, "the last operation returns"
    assert len(code) < 4096


def test_the_last_of_the_disk_is_not_a_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(Group(None, None), Limits({"disk": 1 << 40}), str(tmp_path), 16)
    free = {"f_frsize": 4096, "f_bavail": DISK_RESERVE // 4096}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**free))
    assert (watch.room(), watch.disk()) == ("", "")
    free["f_bavail"] -= 1
    assert "less than 256 MiB left" in watch.room()


def test_nameless_files_are_found(tmp_path: Path) -> None:
    before = Nameless([os.getpid()], mapped=False)
    with (tmp_path / "named").open("wb") as named, (tmp_path / "gone").open("wb") as gone:
        memory = os.memfd_create("kwdbml-test")
        for fd in (named.fileno(), gone.fileno(), memory, second := os.dup(gone.fileno())):
            os.write(fd, b"x" * (1 << 20))
        (tmp_path / "gone").unlink()
        found = Nameless([os.getpid()], mapped=False)
        os.close(memory)
        os.close(second)
    assert found.disk - before.disk == 2 << 20
    assert found.memory - before.memory == 1 << 20
    after = Nameless([os.getpid()], mapped=False)
    assert (after.disk, after.memory) == (before.disk, before.memory)


def test_the_machines_shared_memory_is_no_runs() -> None:
    assert shared_memory(os.getpid()) == 0, "a sandbox that is still being made sees the machine's"
    assert shared_memory(None) == 0


def test_a_tree_that_hides_something(tmp_path: Path) -> None:
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=deep)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    assert measure(str(tmp_path), 1 << 30).hidden
    assert disk_usage(str(tmp_path), 1 << 30) is None
    remove_tree(str(tmp_path / ("d" * 200)))
    assert not measure(str(tmp_path), 1 << 30).hidden


def test_version_2_groups_are_used_where_memory_is_delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This machine's second version has no memory controller: the files are made as the kernel makes them.
    def delegated(self: Cgroup, most_processes: int) -> None:
        os.mkdir(self.path)
        for name in ("memory.max", "memory.events", "cgroup.procs"):
            Path(self.path, name).write_text("low 0\noom 1\noom_kill 3\n" if name == "memory.events" else "")

    assert not usable(2, str(tmp_path)), "no controller, no limit"
    monkeypatch.setattr(Cgroup, "create", delegated)
    group = Cgroup(2, str(tmp_path / "run"))
    group.create(16)
    assert group.limit_memory(123)
    assert Path(group.path, "memory.max").read_text() == "123"
    assert group.oom_kills() == 3


def test_the_runtime_is_no_more_than_it_must_be() -> None:
    paths = runtime_paths()
    assert "/" not in paths
    assert "/usr" not in paths
    assert not any(one != other and one.startswith(other + "/") for one in paths for other in paths)


async def test_a_slot_that_was_let_go_reads_no_other_file(tmp_path: Path) -> None:
    """Numbers of descriptors are given out again at once."""
    (theirs, stdin), (stdout, other) = os.pipe(), os.pipe()
    process = await asyncio.to_thread(subprocess.Popen, ["cat"], stdin=theirs, stdout=other)
    os.close(theirs)
    os.close(other)
    slot = Slot(Started(tmp_path, process.pid, 0, os.pidfd_open(process.pid), stdin, stdout), lambda slot: None)
    reader, writer = os.pipe()
    slot.release()
    os.dup2(reader, stdout)
    os.write(writer, b"{}\n")
    await asyncio.wait_for(slot.gone.wait(), 30)
    assert os.read(stdout, 10) == b"{}\n"
    slot.release()
    os.fstat(stdout)
    slot.forget()
    process.wait()
    for descriptor in (reader, writer, stdout):
        os.close(descriptor)
