"""All of it again as an ordinary user: another kind of sandbox, no control groups, no users to hand out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kwdbml
from tests.fixtures.local import open_to_others

REPOSITORY = Path(kwdbml.__file__).parents[1]
#: Belongs to nobody, and to no range that engines take for their runs.
_USER = 59_999


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_engine_tests_as_an_ordinary_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    if not open_to_others(REPOSITORY):
        pytest.skip(f"no ordinary user can come to {REPOSITORY}: clone it elsewhere to run this test")
    drop = [
        "setpriv",
        f"--reuid={_USER}",
        f"--regid={_USER}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]
    with tempfile.TemporaryDirectory(prefix="kwdbml-user-") as home:
        os.chown(home, _USER, _USER)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        env["HYPOTHESIS_STORAGE_DIRECTORY"] = home
        done = subprocess.run(
            [
                *drop, sys.executable, "-m", "pytest", "tests/engines", "-q", "-p", "no:cacheprovider", "--timeout=240",
                # the cluster's engine starts nothing on this machine: who its user is makes no difference
                "--ignore=tests/engines/kubeflow", "-k", "not kubeflow and not cluster",
            ],
            cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) <= 4, skipped
