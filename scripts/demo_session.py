"""How the demo shows itself: statements and answers by psql, and progress while jobs run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, LiteralString

import psycopg

PROGRESS = """
SELECT id, status, phase, coalesce(step, ''), progress
FROM kwdbml.jobs WHERE id = ANY(%s) ORDER BY created"""

METRICS = """\
SELECT type, model_name, status, objective, score
FROM kwdbml.show_job('{job}') LEFT JOIN LATERAL jsonb_to_recordset(result) AS m(objective text, score float8) ON true"""

RESULT = """\
SELECT type, model_name, status, result FROM kwdbml.show_job('{job}')"""


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


class Demo:
    """An ordinary role's session: psql runs and prints, a connection of our own looks on."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)
        self.failed: list[str] = []

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def rows(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, parameters or None).fetchall()

    def run(self, statement: str, **variables: str) -> str:
        """Show a statement, have psql run it, and show what psql prints; its first cell is the answer."""
        print()
        for number, line in enumerate(statement.splitlines()):
            print(f"{'kwdbml=>' if number == 0 else 'kwdbml->'} {line}", flush=True)
        printed = self._psql(statement, variables, "--pset=format=aligned")
        print(printed, end="", flush=True)
        lines = printed.splitlines()
        return lines[2].strip() if len(lines) > 2 else ""

    def _psql(self, statement: str, variables: dict[str, str], *options: str) -> str:
        if shutil.which("psql") is None:
            raise SystemExit("psql is missing: apt-get install postgresql-client")
        settings = [f"\\set {name} '{value.replace(chr(92), chr(92) * 2)}'" for name, value in variables.items()]
        command = ["psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--pset=pager=off", *options, self._dsn]
        done = subprocess.run(
            command,
            input="\n".join([*settings, f"{statement};\n"]),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PGCLIENTENCODING": "UTF8", "PGCONNECT_TIMEOUT": "30"},
        )
        if done.returncode:
            raise SystemExit(f"psql ended with {done.returncode}")
        return done.stdout

    def jobs(self, *statements: str) -> None:
        """Submit jobs, wait for all of them, and show what became of each."""
        ids = [self.run(statement) for statement in statements]
        self._wait(ids)
        for job in ids:
            ((status, kind, error),) = self.rows("SELECT status, type, error FROM kwdbml.show_job(%s)", job)
            self.run((RESULT if kind == "BATCH_PREDICT" else METRICS).format(job=job))
            if status != "SUCCEEDED":
                self.failed.append(job)
                self._explain(job, error)

    def _explain(self, job: str, error: object) -> None:
        print(f"\njob {job} did not succeed: {error}", file=sys.stderr)
        for (line,) in self.rows("SELECT line FROM kwdbml.job_logs(%s) ORDER BY seq DESC LIMIT 20", job)[::-1]:
            print(f"  | {line}", file=sys.stderr)

    def _wait(self, ids: list[str]) -> None:
        """Until all have ended. A notification is a hint to look; without one we look every second."""
        self._connection.execute("LISTEN kwdbml_job_finished")
        began = time.monotonic()
        shown = ""
        print()
        while True:
            state = self.rows(PROGRESS, ids)
            text = "   ".join(_one(*row[1:]) for row in state)
            if sys.stdout.isatty():
                print(f"\r\033[K  {time.monotonic() - began:5.1f} s  {text}", end="", flush=True)
            elif text != shown:
                print(f"  {time.monotonic() - began:5.1f} s  {text}", flush=True)
            shown = text
            if all(row[1] != "RUNNING" for row in state):
                break
            for _ in self._connection.notifies(timeout=1.0, stop_after=1):
                pass
        if sys.stdout.isatty():
            print(flush=True)


def _one(status: str, phase: str, step: str, progress: float | None) -> str:
    """``training 40 %``, or the status of an ended job."""
    if status != "RUNNING":
        return status
    share = "" if progress is None else f" {progress:.0%}"
    return f"{phase}{': ' + step if step else ''}{share}"
