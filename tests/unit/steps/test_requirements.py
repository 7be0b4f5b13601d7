"""requirements.txt: satisfied is fine, everything else is told."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from kwdbml.steps import requirements
from kwdbml.steps.failure import BadBundle, MissingRequirement


def check(tmp_path: Path, text: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    requirements.check(path, None, "the bundle's requirements.txt")


def test_what_is_satisfied(tmp_path: Path) -> None:
    check(
        tmp_path,
        f"""
        # a comment
        pandas=={pd.__version__} \\
            --hash=sha256:abc \\
            --hash=sha256:def
        Scikit_Learn>=1.0
        numpy  # any
        nothing-of-the-kind; python_version < "3"
        """,
    )


def test_the_cpu_build_is_the_same_library(tmp_path: Path) -> None:
    check(tmp_path, "xgboost>=2\n")


def test_what_is_missing_names_the_way(tmp_path: Path) -> None:
    with pytest.raises(MissingRequirement, match=r"nothing-of-the-kind.*not installed.*pandas<1") as caught:
        check(tmp_path, "nothing-of-the-kind\npandas<1\n")
    assert "modules.zip" in caught.value.hint


@pytest.mark.parametrize(
    "line",
    ["-r other.txt", "--extra-index-url http://x", "-e .", "./local", "git+https://x/y", "x @ https://x/y.whl", "a b"],
)
def test_other_lines_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadBundle, match=r"only|is not a package"):
        check(tmp_path, line)
