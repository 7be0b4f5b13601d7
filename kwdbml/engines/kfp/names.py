"""Names of what belongs to a run, all derived from the run's own: nothing has to be remembered to find it again."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

INSTALLATION = "kwdbml.io/installation"
JOB = "kwdbml.io/job"
ATTEMPT = "kwdbml.io/attempt"
RUN = "kwdbml.io/run"
#: The prefix of the labels that a user gave.
OWN_LABELS = "labels.kwdbml.io"
#: Of the Secret that says which Kubeflow run counts for a name.
RUN_ID = "kwdbml.io/run-id"
#: On every pod of a Kubeflow run, drivers included: its run id.
KFP_RUN = "pipeline/runid"

_NAME = re.compile(r"kwdbml-(?P<installation>[^-]+)(-(?P<job>.+))?-(?P<attempt>\d+)")
#: The value of a Kubernetes label.
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class Identity:
    installation: str
    job: str
    attempt: int


def identity(run_name: str) -> Identity:
    """What is in ``kwdbml-<installation>-<job>-<attempt>``; a name of another form is a job of its own."""
    found = _NAME.fullmatch(run_name)
    if not found:
        return Identity("", run_name, 0)
    return Identity(found["installation"], found["job"] or "", int(found["attempt"]))


def installation_of(run_name: str) -> str:
    return identity(run_name).installation


def labels_of(run_name: str) -> dict[str, str]:
    """What a run's pods and Secret are found by."""
    who = identity(run_name)
    return {INSTALLATION: label(who.installation), JOB: label(who.job), ATTEMPT: str(who.attempt)}


def secret_name(run_name: str) -> str:
    """Also the name of its volume, so a DNS label: the run's own name can be longer than the 63 characters of one."""
    return f"kwdbml-{hashlib.sha256(run_name.encode()).hexdigest()[:32]}"


def claim_name(run_name: str) -> str:
    """Of a Secret without content, made once: which of several Kubeflow runs of that name counts."""
    return f"{secret_name(run_name)}-run"


def is_label(text: str) -> bool:
    """Whether it may be the value of a Kubernetes label, or the part of a label's key after the slash."""
    return bool(LABEL.fullmatch(text))


def label(text: str) -> str:
    """A label's value for it: itself where it is one, else a hash."""
    return text if is_label(text) else hashlib.sha256(text.encode()).hexdigest()[:32]
