"""The engine's small parts on their own."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwdbml.engines import seccomp
from kwdbml.engines.cgroups import Cgroup, usable
from kwdbml.engines.joblog import LINE, LineSplitter, LogWriter, split_long
from kwdbml.engines.logreader import LogReader
from kwdbml.engines.sandbox import runtime_paths
from kwdbml.engines.trees import disk_usage, open_beneath, remove_tree


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
