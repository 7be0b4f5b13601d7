"""The bundles that docs/bundles.md shows are imported, trained and used as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.conftest import Serve
from tests.acceptance.test_readme import README, statements
from tests.fixtures.bundles import zipped
from tests.fixtures.database import MakeRole

BUNDLES = Path(__file__).resolve().parents[2] / "docs" / "bundles.md"


def shown() -> dict[str, str]:
    """Path in its bundle → script, of every Python block of the document."""
    text = BUNDLES.read_text(encoding="utf-8")
    return dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_the_shown_bundles_work(role: MakeRole, serve: Serve) -> None:
    files = shown()
    pipeline = {path: text for path, text in files.items() if path.startswith("pipeline/")}
    preparation = {path: text for path, text in files.items() if path not in pipeline}
    assert pipeline
    assert len(preparation) == 2
    serve()
    ann = role("ann", create_on=["public"]).connect()
    ann.execute(statements(README.read_text(encoding="utf-8"))[0].encode())
    for statement in statements(BUNDLES.read_text(encoding="utf-8"), "pgsql"):
        filled = statement.replace(":'pipeline'", f"'{zipped(pipeline).hex()}'").replace(
            ":'preparation'", f"'{zipped(preparation).hex()}'"
        )
        ann.execute(filled.encode())
    jobs = "SELECT id, kwdbml.wait_job(id, '2 minutes') FROM kwdbml.show_jobs(ARRAY['RUNNING'])"
    ann.execute(jobs)
    ann.execute("SELECT kwdbml.batch_predict('late', NULL, 'rides', 'by_us', 'error')")
    ann.execute(jobs)
    ended = ann.execute("SELECT type, status, error FROM kwdbml.show_jobs() ORDER BY created").fetchall()
    assert [job[:2] for job in ended] == [("TRAIN", "SUCCEEDED"), ("BATCH_PREDICT", "SUCCEEDED")], ended
    printed = ann.execute(
        "SELECT l.line FROM kwdbml.show_jobs('late', '{TRAIN}', '{*}') AS j, kwdbml.job_logs(j.id) AS l"
    ).fetchall()
    assert ("4000 rows to train on, 1000 to test with",) in printed
    counted = ann.execute("SELECT count(*), count(prediction), count(DISTINCT prediction) FROM by_us").fetchone()
    assert counted == (5000, 5000, 2)
