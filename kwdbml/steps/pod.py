"""``python -m kwdbml.steps.pod --access FILE``: one run inside a pod, from inputs in the store to outputs there.

The Secret's FILE leads to the access document (``kwdbml.engines.kfp.access`` writes both): what to fetch, how to start
the step, where its outputs go. Step by step:

1. read both; start the step's process, which imports what is heavy meanwhile (``pod_child``);
2. fetch and verify the inputs, make files of them (``pod_files``), and let the step go;
3. print its lines with their numbers (``pod_log``), end it at its ttl;
4. when nothing of it lives, upload outputs, log and, last, ``manifest.json``, which is the truth of an ended step.

Exit code: the step's; 143 when we were told to stop (nothing is uploaded); 3 when fetching or uploading failed. Then
the manifest's reason is “Unavailable” where another attempt may succeed, and “Error” where it cannot. When the store is
away there is no manifest, and the last line of the log says it (Kubeflow's launcher may make 1 of any exit code).
Standard library and pyarrow only: it runs in images that have kwdbml and nothing of the worker's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import kwdbml
from kwdbml.environment import environment
from kwdbml.loglines import UNAVAILABLE
from kwdbml.steps.pod_child import Child, adopt_orphans, choose_uid
from kwdbml.steps.pod_files import fetch_inputs, make_workspace, send_bytes, send_outputs
from kwdbml.steps.pod_hide import why_not
from kwdbml.steps.pod_http import Failed, Http
from kwdbml.steps.pod_log import PodLog

VERSION = 1
TROUBLE, STOPPED = 3, 143
_SECRET_LIMIT = 1 << 20
_DOCUMENT_LIMIT = 8 << 20
_PATIENCE = 900.0
_LAST_PATIENCE = 20.0
_LONGEST = 2.0**31  # seconds of an alarm, of which Python takes no more than 2**33
#: Variables of the image that a step with a GPU needs.
_OF_THE_IMAGE = ("LD_LIBRARY_PATH", "CUDA_", "NVIDIA_", "NCCL_")
#: What Kubernetes puts into every container.
_TOKENS = ("/var/run/secrets", "/run/secrets")
_NO_LANDLOCK = (
    "The step was not started: code of users could read this pod's Secret and its service-account token, because the "
    "node's kernel has no Landlock"
)
_CURE = (
    "Use nodes with Linux 5.13 or later and Landlock, or set KWDBML_KFP_UNSAFE_NO_LANDLOCK=true for the worker if you "
    "trust everyone who may upload code or write to a shared file system."
)


class Stopped(BaseException):
    """SIGTERM: somebody ends the pod."""


class Expired(BaseException):
    """The run has used up its ttl before its step had begun."""


class _Secret(NamedTuple):
    text: str
    url: str
    sha256: str
    authority: str | None


class Access:
    """The access document, read again when the Secret has changed."""

    def __init__(self, path: Path, patience: float, say: Callable[[str], None]) -> None:
        self._path, self._patience, self._say = path, patience, say
        self._secret = ""
        self.document: dict[str, Any] = {}
        self.http = self._load(patience)

    def current(self) -> dict[str, Any]:
        return self.document

    def refresh(self) -> bool:
        """Whether there are new addresses."""
        try:
            if self._read() == self._secret:
                return False
            self.http = self._load(_LAST_PATIENCE)
        except (Failed, OSError):  # half renewed, or the store is away: what we have may still do
            return False
        return True

    def _read(self) -> str:
        with self._path.open(encoding="utf-8") as file:
            return file.read(_SECRET_LIMIT)

    def _told(self) -> _Secret:
        try:
            text = self._read()
            told = json.loads(text)
            _known(told)
            return _Secret(text, str(told["document"]["url"]), str(told["document"]["sha256"]), told.get("ca"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failed(f"{self._path} is no access file: {error}") from error

    def _load(self, patience: float) -> Http:
        told = self._told()

        def again() -> bool:
            nonlocal told
            before = told
            with contextlib.suppress(Failed):  # half renewed
                told = self._told()
            return told != before

        reader = Http(told.authority, patience, again, say=self._say, first=not self.document)
        content = reader.read(lambda: told.url, lambda: told.sha256, "the access document", _DOCUMENT_LIMIT)
        document = json.loads(content)
        _known(document)
        if self.document and document["run"] != self.document["run"]:
            raise Failed("the access document is another run's")
        self._secret, self.document = told.text, document
        return Http(told.authority, self._patience, self.refresh, say=self._say)


def _known(document: dict[str, Any]) -> None:
    if document["version"] != VERSION:
        raise Failed(
            f"the worker speaks version {document['version']} and this image {VERSION} (kwdbml {kwdbml.__version__}): "
            "use the runtime image of the worker's version"
        )


class PodRun:
    """One run. ``workspace`` is made, and removed at the end."""

    def __init__(self, path: Path, workspace: Path, log: PodLog, patience: float) -> None:
        self._path, self._workspace, self._log, self._patience = path, workspace, log, patience
        self._began = time.monotonic()
        self._access: Access | None = None
        self._child: Child | None = None
        self._ended = False
        self._oom_before = _oom_kills()

    def on_signal(self, signum: int, _frame: object) -> None:
        if signum == signal.SIGALRM:
            if not self._ended:
                raise Expired
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise Stopped

    def run(self) -> int:
        """The exit code. Failed and Expired are told in the manifest as well, as far as that is possible."""
        try:
            access = self._access = Access(self._path, self._patience, self._say)
            return self._run(access)
        except Failed as error:
            return self._give_up(f"{error}", "Unavailable" if error.passing else "Error", TROUBLE)
        except Expired:
            return self._give_up("The job ran longer than its ttl allows.", "DeadlineExceeded", 137)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if self._child is not None:
                self._child.end()

    def _run(self, access: Access) -> int:
        document = access.document
        self._log.progress("import", None)
        self._set_alarm(document["ttl"])
        child = self._child = self._start(document)
        child.listen()
        fetch_inputs(access.http, access.current, self._workspace / "in", lambda f: self._log.progress("import", f))
        document = access.document  # the one that they were of
        order = {"workspace": str(self._workspace), "threads": document["threads"], "env": document["env"]}
        child.go(order)
        code, number = _exit_of(child.wait())
        self._ended = True  # from here on the ttl ends nothing any more
        signal.setitimer(signal.ITIMER_REAL, 0)
        child.end()
        told = self._reason(code, number, child.step)
        ended = {"exit_code": code, "signal": number, **told, "step": child.step or None}
        self._collect(access, ended | {"turn": document["turn"]})  # whose inputs it had
        return code

    def _say(self, text: str) -> None:
        self._log.remark(text, (self._child.step if self._child else "") or "import")

    def _set_alarm(self, ttl: float | None) -> None:
        if ttl is not None:
            left = min(ttl, _LONGEST) - (time.monotonic() - self._began)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left))

    def _start(self, document: dict[str, Any]) -> Child:
        unsafe = bool(document["unsafe"])
        if not unsafe and (problem := why_not()):
            raise Failed(f"{_NO_LANDLOCK} ({problem}). {_CURE}")
        needs = [sys.executable, str(kwdbml.__file__)]
        uid = None if document.get("keep_user") else choose_uid([*needs, str(self._workspace.parent)])
        make_workspace(self._workspace, uid)
        env = environment(str(self._workspace), document["threads"])
        env |= {name: value for name, value in os.environ.items() if name.startswith(_OF_THE_IMAGE)}
        # the directory, because the mounted file is a link to one of its siblings
        beside = self._workspace.is_relative_to(self._path.parent)
        hidden = (str(self._path if beside else self._path.parent), *_TOKENS)
        directory = str(self._workspace / "out" / "tmp")
        return Child(document["command"], env, directory, self._log, uid=uid, hidden=hidden, unsafe=unsafe)

    def _reason(self, code: int, number: int | None, step: str) -> dict[str, str]:
        succeeded = code == 0 and (self._workspace / "out" / "result.json").is_file()
        if _oom_kills() > self._oom_before:
            if not succeeded:
                return {"reason": "OOMKilled", "message": "The job needed more than its memory."}
            self._log.remark("A process of the step was ended for memory; the step came to its end without it.", step)
        if number is not None:
            name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
            return {"reason": "Signal", "message": f"The step was ended by signal {number} ({name})."}
        return {"reason": "", "message": ""}

    def _collect(self, access: Access, ended: dict[str, Any]) -> None:
        """Everything that the worker wants, the manifest last."""
        self._log.progress("collect", None)
        access.refresh()
        files = send_outputs(access.http, access.current, self._workspace / "out")
        self._finish(access, ended | files)

    def _finish(self, access: Access, manifest: dict[str, Any]) -> None:
        document = access.current
        kept = send_bytes(access.http, lambda: str(document()["log"]["put"]), self._log.kept(), "the log")
        content = json.dumps({"version": VERSION, **manifest, "log": kept}).encode()
        send_bytes(access.http, lambda: str(document()["manifest"]["put"]), content, "the manifest")

    def _give_up(self, message: str, reason: str, code: int) -> int:
        """The last line says why; so does a manifest, if the store will have it."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        step = None
        if self._child is not None:
            self._child.end()
            step = self._child.step or None
        self._log.remark((UNAVAILABLE if reason == "Unavailable" else "") + message, step or "import")
        if self._access is not None:
            self._access.http.patience = _LAST_PATIENCE
            ended = {"exit_code": code, "signal": None, "reason": reason, "message": message, "step": step}
            with contextlib.suppress(Failed):
                self._finish(self._access, ended | {"outputs": [], "refused": []})
        return code


def _exit_of(status: int) -> tuple[int, int | None]:
    """(exit code as a shell gives it, signal)."""
    code = os.waitstatus_to_exitcode(status)
    return (code, None) if code >= 0 else (128 - code, -code)


def _oom_kills() -> int:
    """How many processes of this container the kernel has killed for memory; 0 where it does not say."""
    for path in _oom_counters():
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _oom_counters() -> Iterator[Path]:
    """Where the kernel may count them: below our own control group's name, or, in a container that sees its own group
    as the root, there."""
    root, own = Path("/sys/fs/cgroup"), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "memory" or (not controllers and not own):
                own = name.strip("/")
    for name in dict.fromkeys((own, "")):
        yield root / name / "memory.events"
        yield root / "memory" / name / "memory.oom_control"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m kwdbml.steps.pod", description="Run one step of a job in a pod.")
    parser.add_argument("--access", type=Path, required=True, help="the mounted Secret's access.json")
    parser.add_argument("--patience", type=float, default=_PATIENCE, help="seconds to wait for a store that fails")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    adopt_orphans()
    workspace = Path(tempfile.mkdtemp(prefix="kwdbml-"))
    run = PodRun(options.access, workspace, PodLog(), options.patience)
    for signum in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, run.on_signal)
    try:
        return run.run()
    except Stopped:
        return STOPPED
    finally:
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(workspace, ignore_errors=True)


def _leave(code: int) -> NoReturn:
    os._exit(code)  # threads that wait for a pipe must not hold the pod


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
