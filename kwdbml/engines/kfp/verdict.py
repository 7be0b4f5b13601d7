"""How a run ended: one answer from what the step left, what Kubernetes saw of its pods, and what KFP says.

The step's own manifest is believed first, because KFP gives no reasons and forgets the pods: its FAILED may be a
cancel, a limit of ours, a pod that never started or an exception in the user's code. A run that we ourselves stop gets
a note beside its files that says why, so that whoever sees its end knows it too.
"""

from __future__ import annotations

import json
from dataclasses import replace

from kwdbml.engines.base import RunState, RunStatus
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.download import Manifest
from kwdbml.engines.kfp.reasons import Reason

#: The note's name below the run's prefix.
STOP = "stop.json"
STOP_LIMIT = 1 << 16
_RESULT = "result.json"


def canceled() -> RunStatus:
    return RunStatus(RunState.CANCELED, 137, "Canceled", "The job was cancelled.")


def lost(message: str) -> RunStatus:
    return RunStatus(RunState.LOST, reason="Lost", message=message)


def failed(reason: str, message: str) -> RunStatus:
    return RunStatus(RunState.FAILED, None, reason, message)


def note(status: RunStatus) -> bytes:
    """Why a run is stopped, for who comes later."""
    return json.dumps([status.state.value, status.exit_code, status.reason, status.message]).encode()


def noted(content: bytes | None) -> RunStatus | None:
    """None when nobody of us has stopped it."""
    try:
        state, code, reason, message = json.loads(content or b"")
        return RunStatus(RunState(state), code, str(reason), str(message))
    except (ValueError, TypeError):
        return None


def of_manifest(manifest: Manifest) -> RunStatus:
    """What the step's last word means."""
    step = manifest.step
    if manifest.reason:
        return RunStatus(RunState.FAILED, manifest.exit_code, manifest.reason, manifest.message, step)
    if manifest.exit_code == 0 and any(output.name == _RESULT for output in manifest.outputs):
        return RunStatus(RunState.SUCCEEDED, 0, step=step, fraction=1.0)
    if manifest.exit_code == 0:
        message = "The step left with exit code 0 but without a result (did it call sys.exit?)."
        return RunStatus(RunState.FAILED, 0, "Error", message, step)
    message = manifest.message or f"The step left with exit code {manifest.exit_code}."
    return RunStatus(RunState.FAILED, manifest.exit_code, "Error", message, step)


def of_end(run: KfpRun, manifest: Manifest | None, why: Reason | None, stop: RunStatus | None) -> RunStatus:
    """The status of a run that has ended, also when KFP has not noticed. ``stop``: why we have stopped it."""
    step = manifest.step if manifest else None
    if stop is not None and (run.canceled or not run.ended):
        return replace(stop, step=step)
    if manifest is not None:
        return of_manifest(manifest)
    if run.canceled:
        return failed(
            "Terminated", "Somebody terminated the run in Kubeflow Pipelines: the job itself was not canceled."
        )
    if why is not None:
        return RunStatus(RunState.FAILED, why.exit_code, why.reason, why.message, step)
    if run.succeeded:
        return lost("Kubeflow calls the run a success, but its outputs are not in the object store")
    said = f"Kubeflow says {run.state or 'nothing'} and nothing more"
    return failed("Error", run.error or f"{said}: the run's pods are gone, and it left no result.")
