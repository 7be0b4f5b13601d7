"""What nobody needs any more: files and Secrets of runs that were never created, or are archived or gone; and runs
that nobody can end any more because their Secret is gone.

A worker that dies between two steps of a launch, and whose job nobody takes up again, leaves such. Only what is older
than a day is looked at, and longer ago than addresses hold: whoever follows a run renews them. Bucket and namespace may
be those of other installations, too, whose runs are none of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import structlog

from kwdbml.engines.kfp import access, names
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.cluster import Cluster
from kwdbml.engines.kfp.objectstore import ObjectStore
from kwdbml.engines.kfp.settings import KubeflowSettings

log = structlog.get_logger()

EVERY = 3600.0  # seconds
_OLD = 86400.0


def sweep(
    settings: KubeflowSettings,
    api: KfpApi,
    cluster: Cluster,
    store: ObjectStore,
    busy: Callable[[], Collection[str]],
    installation: str,
    *,
    now: Callable[[], float] = time.time,
) -> list[str]:
    """Delete what is left of this installation's runs that are gone; their names. ``busy``: runs that are launched or
    followed here."""
    before = now() - max(_OLD, settings.presign)
    files = {name: at for name, at in store.runs().items() if names.installation_of(name) == installation}
    label = f"{names.INSTALLATION}={names.label(installation)}"
    kept = [one for one in cluster.kept(label) if names.installation_of(one.run_name) == installation]
    last = dict(files)
    for one in kept:
        last[one.run_name] = max(last.get(one.run_name, 0.0), one.created)
    gone = [name for name, at in sorted(last.items()) if at < before and name not in busy() and not api.find(name)]
    for name in gone:
        for one in kept:
            if one.run_name == name:
                cluster.delete_secret(one.name)
        if name in files:
            access.delete_run(store, name)
        log.info("kubeflow.swept", run=name)
    return gone + _without_secret(api, installation, {one.run_name for one in kept}, before, busy)


def _without_secret(
    api: KfpApi, installation: str, kept: Collection[str], before: float, busy: Callable[[], Collection[str]]
) -> list[str]:
    """Unfinished runs whose pods wait for a Secret that was deleted: created by a worker that had lost its job."""
    found = [run for run in api.unfinished(f"kwdbml-{installation}-") if run.name not in kept]
    ours = [run for run in found if names.installation_of(run.name) == installation]
    stuck = [run for run in ours if run.created < before and run.name not in busy()]
    for run in stuck:
        api.terminate(run.run_id)
        api.put_away(run.run_id)
        log.info("kubeflow.swept", run=run.name)
    return [run.name for run in stuck]
