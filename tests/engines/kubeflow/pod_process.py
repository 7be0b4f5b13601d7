"""``kwdbml.steps.pod`` as a plain process: what its tests start, and what they read of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kwdbml.engines.base import LogLine, Run, Workspace
from kwdbml.engines.kfp.download import Manifest, fetch_outputs, read_manifest
from kwdbml.engines.kfp.loglines import Parser
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.upload import upload_run
from tests.engines.conftest import STEP

NAME = "kwdbml-test-1"
COMMAND = (sys.executable, str(STEP))


class Pod:
    """One run, staged in ``in/`` below ``root``."""

    def __init__(self, store: ObjectStore, root: Path) -> None:
        self.store, self.root = store, root
        self.workspace = Workspace(root / "ws")
        self.workspace.inputs.mkdir(parents=True)
        (root / "secret").mkdir()
        (root / "tmp").mkdir(mode=0o755)
        root.chmod(0o755)  # the step's user passes through
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        do: list[Any] | None = None,
        *,
        command: tuple[str, ...] = COMMAND,
        before: tuple[str, ...] = (),
        module: str = "",
        patience: float = 5,
        unsafe: bool = False,
        **options: Any,
    ) -> None:
        """``before``: a program that becomes the pod's; ``module``: its text instead of ``kwdbml.steps.pod``."""
        if do is not None:
            (self.workspace.inputs / "job.json").write_text(json.dumps({"do": do}))
        run = Run(NAME, **options)
        secret = upload_run(
            self.store, run, self.workspace.inputs, threads=1, presign=600, unsafe=unsafe, command=command
        )
        self.replace_secret(secret)
        argv = [*before, sys.executable, *(["-c", module] if module else ["-m", "kwdbml.steps.pod"])]
        argv += ["--patience", f"{patience}", "--access"]
        env = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.root / "tmp"), "PYTHONPATH": os.getcwd(), "CANARY": "s3cret"}
        self.process = subprocess.Popen(
            [*argv, str(self.root / "secret" / "access.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )

    def replace_secret(self, text: str) -> None:
        """At once, as the kubelet does it."""
        (self.root / "secret" / "new").write_text(text)
        (self.root / "secret" / "new").rename(self.root / "secret" / "access.json")

    def await_line(self, text: str) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        while text not in (line := self.process.stdout.readline().decode()):
            assert line, "it has ended"

    def go_on(self) -> None:
        """For a step that pauses."""
        (workspace,) = (self.root / "tmp").glob("kwdbml-*")
        (workspace / "in" / "go").touch()

    def end(self) -> tuple[int, list[str]]:
        """Exit code and the lines that the pod printed."""
        assert self.process is not None
        out, errors = self.process.communicate(timeout=100)
        assert errors == b""
        assert list((self.root / "tmp").iterdir()) == []
        lines = [one for one in Parser().feed(out) if isinstance(one, LogLine)]
        if lines:
            assert [line.seq for line in lines] == list(range(lines[0].seq, lines[-1].seq + 1))
        return self.process.returncode, [f"{line.stream}: {line.line}" for line in lines]

    def manifest(self) -> Manifest:
        found = read_manifest(self.store, NAME)
        assert found is not None
        return found

    def result(self) -> dict[str, Any]:
        fetch_outputs(self.store, NAME, self.manifest(), self.workspace.outputs)
        answers: dict[str, Any] = json.loads((self.workspace.outputs / "result.json").read_bytes())
        return answers


MakePod = Callable[..., Pod]
