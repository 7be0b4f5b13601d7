"""Every bench runs, tiny, and ends with its line. Nothing timed is a test: whether a goal is met is not asked."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.fixtures.server import REPOSITORY

NAMES = (
    "staging",
    "train",
    "batch_predict",
    "submit",
    "pickup",
    "concurrency",
    "show_jobs",
    "memory",
    "kubeflow_scale",
)
LINE = re.compile(r"^(?P<name>\w+) ours=\S+ peer=\S+ ratio=\S+ goal=\S+ (met|missed)$", re.MULTILINE)


@pytest.fixture(scope="module")
def smoke() -> str:
    """What all benches print at their tiniest, on one server."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", NAMES)
def test_a_bench_runs_and_ends_with_its_line(smoke: str, name: str) -> None:
    assert name in {match["name"] for match in LINE.finditer(smoke)}


def test_a_bench_of_no_such_name_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nonsense"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr
