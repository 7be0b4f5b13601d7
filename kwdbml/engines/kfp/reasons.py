"""Why a pod does not run, or no longer: from what Kubernetes says of it, in one word, one sentence and the cure.

Pure functions over pods and events as JSON. KFP's API tells none of this.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kwdbml.loglines import UNAVAILABLE

Json = Mapping[str, Any]

_MAIN = "main"
_MOST_TEXT = 1000
_MOST_LINES = 10


@dataclass(frozen=True, slots=True)
class Reason:
    """``hopeless``: it waits for what will not come by itself."""

    reason: str  # one word, as Kubernetes spells it
    what: str
    cure: str = ""
    exit_code: int | None = None
    hopeless: bool = False

    @property
    def message(self) -> str:
        return f"{self.what} {self.cure}".strip()


_MORE_MEMORY = "Ask for more memory (settings.flavour.mem)."
_ELSEWHERE = "Run it again."
_IMAGE = "Correct the image in kwdbml.runtime, or let the cluster pull it (imagePullSecrets of the pods' account)."
#: Why a container waits: word → (sentence, cure).
_WAITING = {
    "ImagePullBackOff": ("The cluster cannot pull the image {image}.", _IMAGE),
    "ErrImagePull": ("The cluster cannot pull the image {image}.", _IMAGE),
    "ErrImageNeverPull": ("The image {image} is not on the node, and the pull policy is Never.", _IMAGE),
    "InvalidImageName": ("“{image}” is no name of an image.", "Correct the image in kwdbml.runtime."),
    "CreateContainerConfigError": (
        "The pod asks for a Secret or ConfigMap that is not there.",
        "The run's own Secret must live as long as it does: did somebody delete it?",
    ),
    "CreateContainerError": ("The container cannot be made.", "Correct the image or the mounts of the runtime."),
    "RunContainerError": ("The container cannot be started.", "Correct the image or the mounts of the runtime."),
    "CrashLoopBackOff": ("The container ends again and again.", "Look at its log."),
}
#: Why a pod as a whole has ended: status.reason, or the reason of a DisruptionTarget → (our word, sentence, cure).
_ENDED = {
    "Evicted": ("Evicted", "The node threw the pod out.", "Ask for more memory or disk (settings.flavour)."),
    "EvictionByEvictionAPI": ("Evicted", "Somebody, or a drained node, threw the pod out.", _ELSEWHERE),
    "TerminationByKubelet": ("Evicted", "The node ended the pod, to shut down or for want of resources.", _ELSEWHERE),
    "DeadlineExceeded": ("DeadlineExceeded", "The pod's time was up (settings.ttl).", "Allow it more time."),
    "Preempting": ("Preempted", "A pod of higher priority took its place.", _ELSEWHERE),
    "Preempted": ("Preempted", "A pod of higher priority took its place.", _ELSEWHERE),
    "PreemptionByScheduler": ("Preempted", "A pod of higher priority took its place.", _ELSEWHERE),
    "DeletionByTaintManager": ("NodeLost", "The node went away or was given to others.", _ELSEWHERE),
    "DeletionByPodGC": ("NodeLost", "The node is gone, and the pod with it.", _ELSEWHERE),
    "NodeLost": ("NodeLost", "The node does not answer any more.", _ELSEWHERE),
    "NodeShutdown": ("NodeLost", "The node was shut down.", _ELSEWHERE),
    "Shutdown": ("NodeLost", "The node was shut down.", _ELSEWHERE),
    "Terminated": ("NodeLost", "The node was shut down.", _ELSEWHERE),
    "NodeAffinity": ("Unschedulable", "The node does not fit what the pod asks for.", "Correct the node selector."),
}
#: The last event of a pod that has a node and does not start: its reason → the cure.
_UNSTARTED = {
    "FailedMount": "Its Secret and its claims must be there: did somebody delete one?",
    "FailedAttachVolume": "Look at the claims of settings.fs and extraFS: another node may hold the volume.",
    "FailedCreatePodSandBox": "Look at the node and its network.",
}
#: Events that tell more than the pod's own status.
_TELLING = ("Failed", "FailedMount", "FailedAttachVolume", "FailedScheduling", "FailedCreatePodSandBox", "Evicted",
            "Preempted", "TaintManagerEviction", "NodeNotReady", "OOMKilling", "BackOff", "InspectFailed")  # fmt: skip


def explain(pods: Sequence[Json], events: Sequence[Json] = (), lines: Sequence[str] = ()) -> Reason | None:
    """Why a run has not come to its end. ``lines``: the last that it printed. None when its pods do not tell."""
    for pod in sorted(pods, key=_created, reverse=True):
        found = _disrupted(pod) or _terminated(pod, lines) or _stuck(pod) or _initial(pod) or _deleted(pod)
        if found is not None:
            return _with_event(found, events) if found.reason not in ("Error", "Signal") else found
    told = _last_event(events)
    return Reason(str(told["reason"]), f"Kubernetes says: {_text(told)}") if told else None


def waiting(pods: Iterable[Json]) -> Reason | None:
    """What the newest pod that has not started waits for; None when that is nothing unusual."""
    for pod in sorted(pods, key=_created, reverse=True):
        if _status(pod).get("phase") in ("Pending", "Unknown", "", None) and (found := _stuck(pod)):
            return found
    return None


def unstarted(events: Sequence[Json]) -> Reason | None:
    """Why a pod that has a node does not start; what it has overcome since does not count."""
    last = events[-1] if events else {}
    word = str(last.get("reason") or "")
    if last.get("type") == "Normal" or word not in _UNSTARTED:
        return None
    return Reason(word, f"The pod cannot start: {_text(last)}", _UNSTARTED[word], hopeless=True)


# -- one pod ---------------------------------------------------------------------------------------------------------


def _status(pod: Json) -> Json:
    return pod.get("status") or {}


def _created(pod: Json) -> str:
    return str((pod.get("metadata") or {}).get("creationTimestamp") or "")


def _short(text: object) -> str:
    return " ".join(str(text or "").split())[:_MOST_TEXT]


def _state(pod: Json, which: str, kind: str = "containerStatuses") -> Iterable[tuple[Json, Json]]:
    """(container, its state) of those that are waiting, running or terminated, the main one first."""
    found = [one for one in _status(pod).get(kind) or [] if which in (one.get("state") or {})]
    return [(one, one["state"][which]) for one in sorted(found, key=lambda one: one.get("name") != _MAIN)]


def _disrupted(pod: Json) -> Reason | None:
    """The pod was ended as a whole, whatever its containers say."""
    status = _status(pod)
    told = [(str(status.get("reason") or ""), _short(status.get("message")))]
    told += [
        (str(one.get("reason") or ""), _short(one.get("message")))
        for one in status.get("conditions") or []
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
    ]
    for word, message in told:
        if word in _ENDED:
            reason, what, cure = _ENDED[word]
            return Reason(reason, f"{what} {message}".strip(), cure, _exit_code(pod))
        if word.startswith("OutOf") or word == "UnexpectedAdmissionError":
            return Reason(word, f"The node did not take the pod: {message}", _ELSEWHERE)
    return None


def _exit_code(pod: Json) -> int | None:
    for container, state in _state(pod, "terminated"):
        if container.get("name") == _MAIN:
            return int(state.get("exitCode", 0))
    return None


def _terminated(pod: Json, lines: Sequence[str]) -> Reason | None:
    for container, state in _state(pod, "terminated"):
        if container.get("name") != _MAIN:
            continue
        code, word, message = (
            int(state.get("exitCode", 0)),
            str(state.get("reason") or ""),
            _short(state.get("message")),
        )
        if word == "OOMKilled":
            limit = _memory_limit(pod)
            return Reason(word, f"The step used more memory than it may{limit}.", _MORE_MEMORY, code)
        if word in ("ContainerCannotRun", "StartError"):
            return Reason(word, f"The container could not start: {message}", "Correct the image.", code)
        if word == "DeadlineExceeded":
            return Reason(word, _ENDED[word][1], _ENDED[word][2], code)
        if code != 0:
            return _ended_with(code, message, lines)
    return None


def _memory_limit(pod: Json) -> str:
    for one in (pod.get("spec") or {}).get("containers") or []:
        if one.get("name") == _MAIN:
            limit = ((one.get("resources") or {}).get("limits") or {}).get("memory")
            return f" ({limit})" if limit else ", or than the node had"
    return ""


def _ended_with(code: int, message: str, lines: Sequence[str]) -> Reason:
    if lines and lines[-1].startswith(UNAVAILABLE):
        return Reason("Unavailable", lines[-1].removeprefix(UNAVAILABLE)[:_MOST_TEXT], _ELSEWHERE, code)
    last = "\n".join(lines[-_MOST_LINES:])[-_MOST_TEXT:]
    after = f" Its last lines:\n{last}" if last else f" {message}" if message else ""
    if code > 128 and (name := _signal(code - 128)):
        return Reason("Signal", f"The container was killed by {name}.{after}", exit_code=code)
    return Reason("Error", f"The container ended with exit code {code}.{after}", exit_code=code)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _stuck(pod: Json) -> Reason | None:
    """It has not started: no node, no image, no container."""
    for one in _status(pod).get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return _unschedulable(_short(one.get("message")))
    for kind in ("containerStatuses", "initContainerStatuses"):
        for container, state in _state(pod, "waiting", kind):
            word, message = str(state.get("reason") or ""), _short(state.get("message"))
            if word in _WAITING:
                what, cure = _WAITING[word]
                told = f"{what.format(image=container.get('image') or '?')} {message}".strip()
                return Reason(word, told, cure, hopeless=True)
    return None


def _unschedulable(message: str) -> Reason:
    """A full cluster empties; a label that no node has, or a claim that is not there, stays away."""
    hopeless = "nsufficient" not in message and "oo many pods" not in message
    cure = (
        "Correct the node selector, the tolerations or the mounts of the runtime."
        if hopeless
        else "It waits for room: ask for less (settings.flavour), or add nodes."
    )
    return Reason("Unschedulable", f"No node takes the pod: {message}", cure, hopeless=hopeless)


def _initial(pod: Json) -> Reason | None:
    """Argo's and KFP's own containers, which run before and beside ours."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container, state in _state(pod, "terminated", kind):
            if container.get("name") != _MAIN and int(state.get("exitCode", 0)) != 0:
                word, message = str(state.get("reason") or "Error"), _short(state.get("message"))
                what = (
                    f"Kubeflow's own container “{container.get('name')}” ended with {state.get('exitCode')}. {message}"
                )
                return Reason(word, what.strip(), "Look at its log: kubectl logs.", int(state.get("exitCode", 0)))
    return None


def _deleted(pod: Json) -> Reason | None:
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return Reason("Deleted", "Somebody deleted the pod.", _ELSEWHERE)
    if _status(pod).get("phase") == "Failed":
        return Reason(
            "Error", _short(_status(pod).get("message")) or "The pod failed, and Kubernetes does not say why."
        )
    return None


# -- events ----------------------------------------------------------------------------------------------------------


def _text(event: Json) -> str:
    return _short(event.get("message"))


def _last_event(events: Sequence[Json]) -> Json | None:
    telling = [one for one in events if one.get("type") != "Normal" and one.get("reason") in _TELLING]
    return telling[-1] if telling else None


def _with_event(found: Reason, events: Sequence[Json]) -> Reason:
    """The last warning, when it says what is not yet said."""
    told = _last_event(events)
    if told is None or not _text(told) or _text(told) in found.what:
        return found
    what = f"{found.what} Kubernetes says: {_text(told)}"
    return Reason(found.reason, what, found.cure, found.exit_code, found.hopeless)
