"""System calls, descriptors, links and names that a hostile step tries; each with a twin that works."""

from __future__ import annotations

import errno
import os
import platform
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from kwdbml.engines.base import RunState
from kwdbml.engines.local import LocalEngine
from kwdbml.engines.outputs import has_output, open_output, read_output
from kwdbml.errors import EngineError
from tests.engines.conftest import MakeLocal, finish, launch, lines, reach, result, results, resume

ROOT = os.geteuid() == 0
#: Number and arguments on x86_64; without a filter most of these would do something, or complain of their arguments.
CALLS = {
    "ptrace": (101, 0, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "keyctl": (250, 0, -3, 1),
    "unshare a user namespace": (272, 0x10000000),
    "unshare files": (272, 0x400),
    "setns": (308, 0, 0),
    "clone a user namespace": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "perf_event_open": (298, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "userfaultfd": (323, 1),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "open_tree": (428, -100, 0, 0),
    "fsopen": (430, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "memfd_secret": (447, 0),
    "shmget": (29, 0, 4096, 0o1600),
    "msgget": (68, 0, 0o1600),
    "a call of 32-bit x86": (0x40000000 + 39,),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are those of x86_64")
async def test_system_calls_that_a_step_has_no_business_with(local: LocalEngine) -> None:
    twin, *answers = await results(
        local, [["attempt", "system call", 39], *(["attempt", "system call", *call] for call in CALLS.values())]
    )
    assert twin.startswith("done "), "getpid"
    assert {name: answer for name, answer in zip(CALLS, answers, strict=True) if answer != "PermissionError"} == {}


async def test_hard_links_to_what_is_only_to_be_read(local: LocalEngine, scratch: Path) -> None:
    handle = await launch(
        local,
        [
            ["write", "own", "twin"],
            ["attempt", "hard link", "/job/out/own", "/job/out/second"],
            ["attempt", "hard link", "/job/in/job.json", "/job/out/input"],
            ["attempt", "hard link", "/etc/passwd", "/job/out/passwd"],
            ["attempt", "hard link", "/proc/1/environ", "/job/out/environment"],
        ],
    )
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    answers = result(local, handle)
    assert [answers[str(n)] for n in range(1, 5)] == ["done None", *[f"OSError {errno.EXDEV}"] * 3]
    outputs = local.workspace(handle).outputs
    assert sorted(path.name for path in outputs.iterdir()) == ["own", "result.json", "second", "tmp"]
    assert not has_output(outputs, "own"), "a second name may be somebody else's file: none is taken"


async def test_odd_names_and_a_folder_that_became_a_link(local: LocalEngine, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    handle = await launch(local, [["odd_names"], ["swap_folder", str(tmp_path)], ["write", "plain", "twin"]])
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    workspace = local.workspace(handle)
    assert os.readlink(workspace.outputs / "tmp") == str(tmp_path)
    assert read_output(workspace.outputs, "plain", limit=4) == b"twin"
    with pytest.raises(EngineError):
        open_output(workspace.outputs, "tmp/canary", limit=100)
    await local.cleanup(handle)
    assert not workspace.path.exists()
    assert canary.read_text() == "untouched"


async def test_set_user_files_are_out_of_reach(local: LocalEngine) -> None:
    handle = await launch(local, [["attempt", "set user", "tool"], ["attempt", "read", "/job/out/tool"]])
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    assert result(local, handle)["1"] == "done #!/bin/sh\n"
    workspace = local.workspace(handle)
    tool = workspace.outputs / "tool"
    assert stat.S_IMODE(tool.stat().st_mode) & 0o4000
    assert workspace.path.stat().st_mode & 0o007 == 0, "nobody else comes as far as the file"
    if ROOT:
        found = subprocess.run(  # noqa: ASYNC221
            ["/usr/bin/test", "-e", str(tool)], user=59_998, group=59_998, extra_groups=(), check=False
        )
        assert found.returncode == 1
    await local.cleanup(handle)
    assert not tool.exists()


async def test_only_the_log_and_the_control_pipe_take_bytes(local: LocalEngine) -> None:
    handle = await launch(local, [["say", "twin"], ["attempt", "descriptors", [0, *range(4, 64)]]])
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    assert result(local, handle)["1"] == "done []"
    assert [line.line for line in await lines(local, handle)] == ["twin"]
    control = local.workspace(handle).path / "ctl"
    assert not [path for path in control.iterdir() if path.is_file() and b"attacked" in path.read_bytes()]


async def test_abstract_addresses_are_each_jobs_own(make_local: MakeLocal) -> None:
    engine = await make_local(concurrency=2)
    name = f"kwdbml-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        first = await launch(engine, [["attempt", "serve", name], ["pause"]], "kwdbml-a-1")
        await reach(engine, first)
        assert await results(engine, [["attempt", "serve", name]], "kwdbml-b-1") == ["done "]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    resume(engine, first)
    assert (await finish(engine, first)).state is RunState.SUCCEEDED
    assert result(engine, first)["0"] == "done "


def test_an_output_that_is_changed_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "result").write_text("first")
    (tmp_path / "canary").write_text("untouched")
    with open_output(tmp_path, "result", limit=10) as file:
        (tmp_path / "result").unlink()
        (tmp_path / "result").symlink_to(tmp_path / "canary")
        assert file.read() == b"first", "what was opened and looked at is what is read"
    with pytest.raises(EngineError):
        open_output(tmp_path, "result", limit=10)


def test_an_output_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result").write_bytes(b"x" * 10)
    fstat = os.fstat

    def grown(fd: int) -> os.stat_result:
        found = fstat(fd)
        with (tmp_path / "result").open("ab") as file:
            file.write(b"x" * 1000)
        return found

    assert len(read_output(tmp_path, "result", limit=10)) == 10
    monkeypatch.setattr("kwdbml.engines.trees.os.fstat", grown)
    with pytest.raises(EngineError, match="grew beyond 10 bytes"):
        read_output(tmp_path, "result", limit=10)


def test_outputs_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("twin")
    (tmp_path / "tmp").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    os.mkfifo(tmp_path / "pipe")
    kinds = ["socket", "pipe", "tmp"]
    if ROOT:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: it would never end
        kinds.append("device")
    assert read_output(tmp_path, "plain", limit=4) == b"twin"
    for name in kinds:
        assert not has_output(tmp_path, name)
        with pytest.raises(EngineError):
            open_output(tmp_path, name, limit=10)
