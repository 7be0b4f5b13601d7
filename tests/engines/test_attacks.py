"""What a hostile step tries from inside the sandbox, each with a harmless twin that works and a canary that stays.

The step (``step.py``) answers "done …" when an attempt worked, else with the error's name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kwdbml
from kwdbml.engines.base import RunState
from kwdbml.engines.local import LocalEngine
from kwdbml.engines.outputs import has_output, open_output, read_output
from kwdbml.errors import EngineError
from tests.engines.conftest import MakeLocal, finish, launch, reach, results, resume
from tests.fixtures.local import open_to_others

REPOSITORY = Path(kwdbml.__file__).parents[1]
ROOT = os.geteuid() == 0


def attempts(*tries: tuple[Any, ...]) -> list[list[Any]]:
    return [["attempt", *arguments] for arguments in tries]


async def test_files_of_the_machine(local: LocalEngine, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    twin, *answers = await results(
        local,
        attempts(
            ("read", "/job/in/job.json"),
            ("read", "/etc/shadow"),
            ("read", str(secret)),
            ("list", str(REPOSITORY / ".git")),
            ("list", "/root"),
            ("list", "/home"),
            ("list", "/var/run/postgresql"),
            ("list", "/var/lib"),
        ),
    )
    assert twin.startswith("done ")
    # of the directories above the repository, which is needed inside, nothing but the way to it is there
    ways = {
        place: f"done ['{REPOSITORY.relative_to(place).parts[0]}']"
        for place in ("/root", "/home", "/var/lib")
        if REPOSITORY.is_relative_to(place)
    }
    asked = ["/etc/shadow", str(secret), str(REPOSITORY / ".git"), "/root", "/home", "/var/run/postgresql", "/var/lib"]
    assert answers == [ways.get(path, "FileNotFoundError") for path in asked]
    assert secret.read_text() == "canary"


async def test_only_what_is_allowed_is_there(local: LocalEngine) -> None:
    top, job, passwd, etc = await results(
        local, attempts(("list", "/"), ("list", "/job"), ("read", "/etc/passwd"), ("list", "/etc"))
    )
    allowed = {"bin", "dev", "etc", "job", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "sys", "tmp", "usr"}
    runtime = {Path(path).parts[1] for path in (str(REPOSITORY), sys.prefix, sys.base_prefix)}
    assert set(eval(top.removeprefix("done "))) <= allowed | runtime
    assert job == "done ['in', 'out']"
    assert passwd.startswith("done job:x:")
    assert passwd.count("\n") == 1
    assert set(eval(etc.removeprefix("done "))) <= {
        "alternatives",
        "group",
        "hosts",
        "ld.so.cache",
        "localtime",
        "passwd",
    }


async def test_writing_outside(local: LocalEngine) -> None:
    package = REPOSITORY / "kwdbml" / "attacked"
    handle = await launch(
        local,
        attempts(
            ("write", "/job/out/twin"),
            ("write", "/job/out/tmp/twin"),
            ("write", "/usr/attacked"),
            ("write", "/etc/attacked"),
            ("write", "/attacked"),
            ("write", "/dev/attacked"),
            ("write", "/job/attacked"),
            ("write", "/job/in/attacked"),
            ("write", "/job/in/job.json"),
            ("remove", "/job/in/job.json"),
            ("write", str(package)),
            ("write", "/proc/sys/kernel/core_pattern"),
        ),
    )
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    workspace = local.workspace(handle)
    answers = list(eval(read_output(workspace.outputs, "result.json", limit=1 << 20).decode()).values())[2:]
    assert answers[:2] == ["done 8", "done 8"]
    assert set(answers[2:]) <= {"PermissionError", "OSError 30", "FileNotFoundError"}, answers
    assert (workspace.outputs / "twin").read_text() == "attacked"
    assert [path.name for path in workspace.inputs.iterdir()] == ["job.json"]
    for path in (Path("/usr/attacked"), Path("/etc/attacked"), Path("/attacked"), package):
        assert not path.exists()


async def test_another_jobs_workspace_and_ctl(make_local: MakeLocal) -> None:
    engine = await make_local(concurrency=2)
    victim = await launch(engine, [["write", "secret", "canary"], ["pause"]], "kwdbml-victim-1")
    await reach(engine, victim)
    path = engine.workspace(victim).path
    answers = await results(
        engine,
        [
            ["write", "secret", "mine"],
            *attempts(
                ("read", "/job/out/secret"),
                ("read", str(path / "out" / "secret")),
                ("write", str(path / "out" / "secret")),
                ("read", str(path / "ctl" / "started")),
                ("list", "/job/ctl"),
                ("list", str(path.parent)),
            ),
        ],
        "kwdbml-thief-1",
    )
    assert answers[1] == "done mine"
    assert answers[2:] == ["FileNotFoundError"] * 5
    assert (path / "out" / "secret").read_text() == "canary"
    resume(engine, victim)
    assert (await finish(engine, victim)).state is RunState.SUCCEEDED


async def test_the_workers_environment(make_local: MakeLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWDBML_TEST_DSN", "canary")
    engine = await make_local()
    own, pid1, environment = await results(
        engine,
        [*attempts(("read", "/proc/self/environ"), ("read", "/proc/1/environ")), ["environment"]],
        env={"MINE": "twin"},
    )
    assert own.startswith("done ")
    assert "canary" not in own
    # As an ordinary user bubblewrap's own process has the same user and the same empty environment.
    assert pid1 == "PermissionError" if ROOT else "canary" not in pid1
    assert environment["MINE"] == "twin"
    known = {"PATH", "HOME", "TMPDIR", "LANG", "PWD", "MINE", "OMP_WAIT_POLICY"}
    rest = {name for name in environment if not name.startswith("PYTHON") and not name.endswith("_NUM_THREADS")}
    assert rest <= known | {"LC_CTYPE"}


@contextlib.contextmanager
def listening(family: int, address: Any) -> Iterator[tuple[socket.socket, list[int]]]:
    """A server that greets everyone with "hello", and how many came."""
    came: list[int] = []
    server = socket.socket(family, socket.SOCK_STREAM)
    server.bind(address)
    server.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            came.append(1)
            connection.sendall(b"hello")
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server, came
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def greet(family: int, address: Any) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        return connection.recv(10)


async def test_the_hosts_sockets(local: LocalEngine, scratch: Path) -> None:
    scratch.parent.chmod(0o755)
    path = scratch.parent / ".s.PGSQL.5432"
    servers = [
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_UNIX, str(path)),
        (socket.AF_UNIX, f"\0kwdbml-test-{os.getpid()}"),
    ]
    for number, (family, address) in enumerate(servers):
        with listening(family, address) as (server, came):
            if family == socket.AF_UNIX and isinstance(address, str) and address.startswith("/"):
                os.chmod(address, 0o777)
            name = server.getsockname()
            shown = name.decode() if isinstance(name, bytes) else name
            [answer] = await results(local, attempts(("connect", int(family), shown)), f"kwdbml-test-{number}")
            assert answer in ("ConnectionRefusedError", "FileNotFoundError"), answer
            assert greet(family, name) == b"hello", "the twin outside"
            assert came == [1], "and nobody else"
    path.unlink()


async def test_the_network_and_other_kinds_of_sockets(local: LocalEngine) -> None:
    twin, network, name, vsock, packet = await results(
        local,
        attempts(
            ("socket", int(socket.AF_INET)),
            ("connect", int(socket.AF_INET), ["192.0.2.1", 80]),
            ("connect", int(socket.AF_INET), ["example.org", 80]),
            ("socket", int(socket.AF_VSOCK)),
            ("socket", int(socket.AF_PACKET)),
        ),
    )
    assert twin == "done None"
    assert network == "OSError 101"  # ENETUNREACH
    assert name == "gaierror"
    assert (vsock, packet) == ("OSError 97", "OSError 97")  # EAFNOSUPPORT


async def test_other_processes(local: LocalEngine) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as canary:  # noqa: ASYNC220
        twin, *answers, seen = await results(
            local,
            [
                ["kill_own_child"],
                *attempts(("signal", canary.pid), ("signal", os.getpid()), ("signal", os.getppid()), ("processes",)),
            ],
        )
        assert canary.poll() is None
        canary.communicate()
    assert twin == -15
    assert answers == ["ProcessLookupError"] * 3
    assert "pytest" not in seen
    assert "supervisor" not in seen
    assert 1 <= len(eval(seen.removeprefix("done "))) <= 3


async def test_it_has_no_rights_and_can_get_none(local: LocalEngine) -> None:
    status, user, descriptors, *answers = await results(
        local,
        [
            ["status"],
            ["job_user"],
            ["descriptors"],
            *attempts(("namespace",), ("root",), ("device", "/job/out/tmp/disk"), ("read", "/job/in/job.json")),
        ],
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert 0 not in user
    if ROOT:
        assert len(set(user)) == 1
        assert user[0] > 60_000
    assert set(descriptors) - {"0", "1", "2", "3"} <= {"4"}, "the listing's own descriptor and no other"
    assert answers[0] == "PermissionError"
    assert answers[1] in ("PermissionError", "OSError 22"), "22: there is no root in an ordinary user's namespace"
    assert answers[2] == "PermissionError"
    assert answers[3].startswith("done ")


async def test_two_runs_are_two_users(make_local: MakeLocal) -> None:
    if not ROOT:
        pytest.skip("an ordinary user's runs are separated by namespaces; users of their own need root")
    engine = await make_local()
    [[first], [second]] = [[(await results(engine, [["job_user"]], f"kwdbml-{n}-1"))[0][0]] for n in "ab"]
    assert first != second


async def test_outputs_are_opened_without_following_anything(local: LocalEngine, tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("canary")
    handle = await launch(
        local,
        [
            ["write", "plain", "twin"],
            ["link", str(secret), "link"],
            ["link", str(tmp_path), "directory"],
            ["pipe", "pipe"],
            ["second_name", "plain", "other"],
            ["write", "single", "twin"],
            ["write", "long", "x" * 100],
        ],
    )
    assert (await finish(local, handle)).state is RunState.SUCCEEDED
    outputs = local.workspace(handle).outputs
    assert read_output(outputs, "single", limit=4) == b"twin"
    for name in (
        "link",
        "directory/shadow",
        "directory",
        "pipe",
        "plain",
        "long",
        "../ctl/started",
        "/etc/passwd",
        "tmp",
    ):
        assert not has_output(outputs, name) or name == "long"
        with pytest.raises(EngineError):
            open_output(outputs, name, limit=10)
    with pytest.raises(FileNotFoundError):
        open_output(outputs, "missing", limit=10)


async def test_a_result_that_is_a_link_is_no_result(local: LocalEngine, tmp_path: Path) -> None:
    (tmp_path / "result").write_text("{}")
    handle = await launch(local, [["link", str(tmp_path / "result"), "result.json"], ["leave", 0]])
    assert (await finish(local, handle)).state is RunState.FAILED


async def test_a_deep_and_locked_tree_is_deleted(local: LocalEngine) -> None:
    handle = await launch(local, [["nest", 3000]])
    await finish(local, handle)
    path = local.workspace(handle).path
    await local.cleanup(handle)
    assert not path.exists()


async def test_junk_on_the_control_pipe_is_ignored(local: LocalEngine) -> None:
    junk = [
        "no json\n", "[1]\n", '{"event": "progress", "step": 7}\n', '{"event": "progress", "step": "a b"}\n',
        "\x00" * 70000, '\n{"event": "started"}\n', '{"event": "progress", "step": "fine", "fraction": 7}\n',
    ]  # fmt: skip
    handle = await launch(local, [["control", text] for text in junk])
    status = await finish(local, handle)
    assert (status.state, status.step) == (RunState.SUCCEEDED, "fine")


async def test_without_a_sandbox_uploaded_code_is_refused(
    make_local: MakeLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwdbml.engines.sandbox.shutil.which", lambda name: None)
    engine = await make_local()
    with pytest.raises(EngineError) as caught:
        await launch(engine, [])
    assert "apt install bubblewrap" in caught.value.hint
    assert not caught.value.retryable
    assert await results(engine, [["say", "ours"]], trusted=True) == [None]


async def test_without_a_sandbox_when_the_operator_says_so(make_local: MakeLocal) -> None:
    engine = await make_local(unsafe_no_sandbox=True)
    user, environment = await results(engine, [["job_user"], ["environment"]])
    if ROOT and open_to_others(REPOSITORY):
        assert user[0] > 60_000, "under root it is another user all the same"
    assert set(environment) & {"KWDBML_DSN", "PGPASSWORD", "VIRTUAL_ENV"} == set()
