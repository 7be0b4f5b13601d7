"""Filling a workspace: the bundles of a job and ``job.json``, the step's one description of what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kwdbml import quantity
from kwdbml.dataset import Staged
from kwdbml.engines.base import About, Mount, Placement, Resources, Run
from kwdbml.errors import EngineError
from kwdbml.model import JobType, objective_groups
from kwdbml.plpy.settings import Settings, texts
from kwdbml.store import Claim, Store
from kwdbml.worker.request import settings_of


def run_of(claim: Claim, spec: dict[str, Any]) -> Run:
    """The engine's view of an attempt. InvalidParameter for what a hand-written request got wrong."""
    settings = settings_of(spec)
    flavour = spec["flavour"] or settings.flavour
    ttl = float(spec["ttl"])
    # what lies on a volume may be code, and variables such as LD_PRELOAD run it in the algorithm's process
    return Run(
        claim.run_name, _resources(flavour, spec["runtime"]), ttl if ttl > 0 else None, settings.env,
        trusted=not spec["user_code"] and not settings.file_systems, python=spec["runtime"].get("python", ""),
        placement=_placement(settings, flavour, spec), about=_about(spec),
    )  # fmt: skip


def _resources(flavour: dict[str, Any], runtime: dict[str, Any]) -> Resources:
    """The flavour's, and what it does not say as the runtime has it."""
    cpu, memory = (flavour.get(key) or runtime.get(key) for key in ("cpu", "mem"))
    return Resources(
        cpu=None if cpu is None else quantity.cores(cpu),
        memory=None if memory is None else quantity.memory(memory),
        scalar={name: _amount(amount) for name, amount in flavour.get("scalarResources", {}).items()},
    )


def _amount(amount: object) -> str:
    """1.0 is the whole number 1 to PostgreSQL."""
    return str(int(amount) if isinstance(amount, float) and amount.is_integer() else amount)


def _placement(settings: Settings, flavour: dict[str, Any], spec: dict[str, Any]) -> Placement:
    volumes = spec["file_systems"]
    return Placement(
        image=settings.image or spec["image"],
        pull_policy=spec["runtime"].get("pull_policy"),
        node_selector=flavour.get("node_selector", {}),
        tolerations=flavour.get("tolerations", ()),
        mounts=[
            Mount(
                volumes[fs.name]["claim"], fs.path, "/".join(filter(None, (volumes[fs.name]["sub_path"], fs.sub_path)))
            )
            for fs in settings.file_systems
        ],
    )


def _about(spec: dict[str, Any]) -> About:
    """Labels and annotations are columns of the job's row, where a hand may have written anything."""
    return About(
        type=JobType(spec["type"]), creator=spec["creator"], model=spec["model"],
        labels=texts("labels", spec["labels"]), annotations=texts("annotations", spec["annotations"]),
    )  # fmt: skip


async def fetch_bundles(store: Store, claim: Claim, inputs: Path) -> dict[str, bool]:
    """Write the job's bundles as ``KIND.zip``; which there are. EngineError when bytes and hash disagree."""
    files = {"pipeline": False, "transformer": False, "model": False}
    for artefact in await store.artefacts(claim):
        digest = hashlib.sha256()
        with (inputs / f"{artefact.kind}.zip").open("wb") as file:
            async for chunk in store.chunks(claim, artefact):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != artefact.sha256:
            raise EngineError(
                f"the stored {artefact.kind} bundle is damaged: its SHA-256 is not the recorded one",
                hint="Import it again.",
            )
        files[artefact.kind] = True
    return files


def write_spec(
    inputs: Path,
    claim: Claim,
    spec: dict[str, Any],
    staged: Staged,
    files: dict[str, bool],
    compared: dict[str, Any] | None = None,
) -> None:
    """``job.json``, written last: with it the workspace is complete (``kwdbml.steps`` reads it)."""
    by_role: dict[str, dict[str, dict[str, str]]] = {"feature": {}, "target": {}, "carried": {}}
    for column in staged.columns:
        by_role[column["role"]][column["name"]] = column
    features = [
        {**f, "column": by_role["feature"][f["name"]]["column"], "source": by_role["feature"][f["name"]]["staged"]}
        for f in spec["features"]
    ]
    target = [
        {**t, **({"column": by_role["target"][t["name"]]["column"]} if t["name"] in by_role["target"] else {})}
        for t in spec["target"]
    ]
    hyperparameters = dict(spec["hyperparameters"])
    job = {
        "version": 1, "job_id": str(claim.job_id), "attempt": claim.attempt, "type": spec["type"],
        "problem_type": spec["problem_type"], "framework": spec["framework"], "seed": 0, "algorithm": spec["algorithm"],
        "hyperparameters": hyperparameters, "positive_label": hyperparameters.get("positive_label"),
        "objectives": objectives(spec), "features": features, "target": target, "files": files,
        "compare": compared,
    }  # fmt: skip
    (inputs / "carried.json").write_text(
        json.dumps([c["column"] for c in staged.columns if c["role"] == "carried"]), encoding="utf-8"
    )
    (inputs / "job.json").write_text(json.dumps(job), encoding="utf-8")


def objectives(spec: dict[str, Any]) -> list[list[str]] | None:
    """The metrics asked for, in one group per target; None where a request has no text there: all."""
    asked = spec["settings"].get("objectives")
    return objective_groups(asked) if spec["type"] == "EVALUATE" and isinstance(asked, str) else None


def carried(inputs: Path) -> list[str]:
    """The Arrow columns that travel to the result table, in the data set's order; kept beside the data, because whoever
    lands the job need not be who staged it."""
    found: list[str] = json.loads((inputs / "carried.json").read_text(encoding="utf-8"))
    return found
