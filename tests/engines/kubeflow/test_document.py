"""docs/kubeflow.md is true: its settings file is one, and its first job runs, statement by statement as psql would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from kwdbml import configuration
from tests.acceptance.test_readme import statements
from tests.engines.kubeflow.jobs import Workers
from tests.engines.kubeflow.stub.stub import Stub
from tests.fixtures.database import MakeRole
from tests.fixtures.s3 import S3Server
from tests.worker.site import Site

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "kubeflow.md").read_text(encoding="utf-8")
FIRST_JOB = DOCUMENT.partition("\n## The first job\n")[2].partition("\n## ")[0]


async def test_the_first_job(site: Site, workers: Workers, role: MakeRole, kubeflow: Stub, s3_bucket: S3Server) -> None:
    await workers()
    reader = role("reader", create_on=["public"])
    answers: dict[str, list[Any]] = {}
    async with await AsyncConnection.connect(reader.dsn, autocommit=True) as connection:
        for statement in statements(FIRST_JOB):
            cursor = await connection.execute(statement.encode())
            found = await cursor.fetchall() if cursor.description else []
            answers[statement] = answers.get(statement, []) + found
    waited = [status for statement, rows in answers.items() if "wait_job" in statement for _, status in rows]
    assert waited == ["SUCCEEDED"] * 3
    (predicted,) = [rows for statement, rows in answers.items() if "predicted_late" in statement]
    assert sum(count for _, _, count in predicted) == 1000
    jobs = await site.rows("SELECT type::text, status::text, engine FROM kwdbml.job ORDER BY created")
    assert jobs == [
        ("TRAIN", "SUCCEEDED", "kubeflow"), ("EVALUATE", "SUCCEEDED", "kubeflow"),
        ("BATCH_PREDICT", "SUCCEEDED", "kubeflow"), ("TRAIN", "CANCELED", "kubeflow"),
    ]  # fmt: skip
    await site.settled()
    assert all(run.archived for run in kubeflow.runs.values())
    assert (kubeflow.secrets, s3_bucket.keys("kwdbml/")) == ({}, [])


def test_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it names exist and are taken; its other files are made up."""
    (text,) = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    for name in re.findall(r'"/etc/kwdbml/([\w-]+)"', text):
        (tmp_path / name).write_text("", encoding="utf-8")
    file = tmp_path / "kwdbml.toml"
    file.write_text(text.replace("/etc/kwdbml", str(tmp_path)).replace("…", "hush"), encoding="utf-8")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    found = configuration.load({"dsn": "dbname=x"}, file)
    assert found.engine_names == ("local", "kubeflow")
    assert found.kubeflow is not None
    assert found.kubeflow.cluster_access == "kubeconfig"
