"""Jobs whose bundles ask for packages, from SQL to the step that imports them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from kwdbml.engines.fake import FakeJob, FakeWorld
from kwdbml.engines.local import LocalEngine
from tests.fixtures.bundles import zipped
from tests.worker import plays
from tests.worker.conftest import Employ
from tests.worker.site import DEADLINE, Site
from tests.worker.test_packages import Silence, configure, leftovers, made, wheel

TRAIN = """
import os, numpy, kwtiny
from sklearn.dummy import DummyClassifier

def model_train(x_train, y_train, x_test, y_test):
    tampered = 0
    for change in (lambda f: open(f, "w"), os.unlink, lambda f: os.chmod(f, 0o777), lambda f: os.rename(f, f + "x")):
        try:
            change(kwtiny.__file__)
            tampered += 1
        except OSError:
            pass
    ours = "/in/packages/" not in numpy.__file__
    return DummyClassifier().fit(x_train, y_train), {"value": kwtiny.VALUE, "tampered": tampered, "ours": float(ours)}
"""


@pytest.fixture
def wheels(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with two wheels, one of them a numpy that must never be seen."""
    path = scratch.parent / "wheels"
    path.mkdir()
    for file, content in (wheel("kwtiny"), wheel("numpy", "99.0", code="raise ImportError('not the runtime’s')\n")):
        (path / file).write_bytes(content)
    configure(monkeypatch, scratch, f"[global]\nno-index = true\nfind-links = {path}\n")


async def pipeline(site: Site, text: str) -> None:
    """Ann's pipeline "asking", with this requirements.txt."""
    bundle = zipped({"pipeline/train.py": TRAIN, "requirements.txt": text})
    await site.as_ann.execute(
        "SELECT kwdbml.import_training_pipeline('asking', '', 'b', 'sklearn_1.3', 'python_3.10', %s, %s, %s, NULL)",
        [Jsonb([{"name": "x", "type": "FLOAT"}]), Jsonb([{"name": "late", "type": "INT"}]), bundle],
    )


async def lines(site: Site, job: str) -> list[tuple[int, str]]:
    """Our own remarks in the job's log, and which of the run's lines is the first."""
    found = await site.rows("SELECT seq, line FROM kwdbml.job_logs(%s) WHERE stream = 'kwdbml' ORDER BY seq", job)
    return [(int(seq), str(line)) for seq, line in found]


@pytest.mark.usefixtures("wheels")
async def test_a_script_imports_what_it_asked_for(site: Site, employ: Employ, scratch: Path) -> None:
    await employ(engine=LocalEngine(scratch, warm=1), scratch=scratch)
    await pipeline(site, "kwtiny\nnumpy\n")
    job = await site.train(pipeline="asking")
    metrics = {metric["objective"]: metric["score"] for metric in await site.succeeded(job)}
    assert metrics == {"value": 42, "tampered": 0, "ours": 1}
    remarks = await lines(site, job)
    assert " + kwtiny==1.0" in [line for _, line in remarks]
    assert remarks[-1][0] <= 0, "before the run's own lines, which count from 1"
    [ready] = made(scratch)
    assert (ready / "kwtiny" / "__init__.py").read_text() == "VALUE = 42\n"


@pytest.mark.usefixtures("wheels")
async def test_every_engine_finds_it_in_the_workspace(
    site: Site, employ: Employ, scratch: Path, world: FakeWorld
) -> None:
    seen: list[Any] = []

    def script(job: FakeJob) -> int:
        seen.append((job.inputs / "packages" / "kwtiny" / "__init__.py").stat().st_nlink)
        return plays.step(job)

    world.script = script
    await employ(scratch=scratch)
    await pipeline(site, "kwtiny\n")
    await site.succeeded(await site.train(pipeline="asking"))
    assert seen == [1], "a copy: this engine does not say that its runs cannot write there"


@pytest.mark.usefixtures("wheels")
async def test_what_cannot_be_had_is_the_jobs_error(site: Site, employ: Employ, scratch: Path) -> None:
    await employ(scratch=scratch)
    await pipeline(site, "kwtiny==1.0\nkwtiny==2.0\n")
    job = await site.train(pipeline="asking")
    error = await site.failed(job)
    assert error["type"] == "RequirementConflict"
    assert "you require kwtiny==1.0 and kwtiny==2.0" in error["message"]
    assert any("kwtiny==2.0" in line for _, line in await lines(site, job))
    assert len(await site.attempts(job)) == 1, "to try again would not help"


@pytest.mark.usefixtures("wheels")
async def test_it_can_be_switched_off(site: Site, employ: Employ, scratch: Path) -> None:
    await employ(engine=LocalEngine(scratch, warm=1), scratch=scratch, install_requirements=False)
    await pipeline(site, "kwtiny\n")
    error = await site.failed(await site.train(pipeline="asking"))
    assert error["type"] == "MissingRequirement"
    assert "kwtiny (not installed)" in error["message"]
    assert "modules.zip" in error["message"]
    assert not (scratch / "packages").exists()


async def test_a_job_canceled_while_packages_are_fetched(
    site: Site, employ: Employ, scratch: Path, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence()
    async with await asyncio.start_server(silence.serve, "127.0.0.1", 0) as server:
        configure(monkeypatch, scratch, "")
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
        await employ(scratch=scratch)
        await pipeline(site, "kwtiny\n")
        job = await site.train(pipeline="asking")
        async with asyncio.timeout(DEADLINE):
            await silence.asked.wait()
            assert await site.value("SELECT phase FROM kwdbml.jobs WHERE id = %s", job) == "staging"
            await site.as_ann.execute("SELECT kwdbml.cancel_job(%s)", [job])
            await silence.left.wait()
        status, _ = await site.ended(job)
    assert status == "CANCELED"
    assert world.launches == []
    assert list(world.root.iterdir()) == []
    assert leftovers(scratch) == made(scratch) == []
