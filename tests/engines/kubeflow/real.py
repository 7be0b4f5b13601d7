"""The Kubeflow that the environment of the tests names, for those marked ``cluster``.

``docs/kubeflow.md`` says what must be set. What these tests make there goes by random names and is deleted again, so
several may test on one cluster, and beside workers that work.
"""

from __future__ import annotations

import contextlib
import functools
import io

import pytest
from pydantic import ValidationError
from rich.console import Console

from kwdbml.doctor.checks import Examination
from kwdbml.doctor.report import tell
from kwdbml.engines.kfp.checks import KubeflowChecks
from kwdbml.engines.kfp.settings import KubeflowSettings, UnknownVariable, from_environment
from tests.fixtures import exported

#: Seconds for one thing to come true. A pod takes half a minute, and minutes where its image must be pulled.
PATIENCE = 900.0
#: Far longer: who runs out of it ends the process of the tests, and what they have made stays in the cluster.
CLUSTER = [pytest.mark.cluster, pytest.mark.timeout(6 * PATIENCE)]
_EXPERIMENT = "kwdbml-test"


def real_cluster() -> KubeflowSettings:
    """Skips where the environment names none; fails at once where what it names does not work."""
    if not exported.KUBEFLOW.get("KWDBML_KFP_HOST"):
        pytest.skip("KWDBML_KFP_HOST is not set: there is no Kubeflow to test with")
    settings, found = _examined()
    if settings is None or found:
        pytest.fail(f"the Kubeflow that the environment names cannot be used:\n{found}", pytrace=False)
    return settings


@functools.cache
def _examined() -> tuple[KubeflowSettings | None, str]:
    """With what ``kwdbml doctor`` says, where something fails."""
    try:
        given = from_environment(exported.KUBEFLOW)
        settings = KubeflowSettings.model_validate({"experiment": _EXPERIMENT, **given})
    except UnknownVariable as error:
        return None, f"{error.name} is no setting; {error.close or 'docs/kubeflow.md'} is"
    except ValidationError as error:  # which does not show what was given
        return None, str(error)
    hidden = [one.get_secret_value() for one in (settings.token, settings.s3.secret_key) if one is not None]
    said, checks = io.StringIO(), KubeflowChecks(settings)
    with contextlib.closing(checks):
        healthy = tell(Examination(hidden).run(checks.checks()), Console(file=said, highlight=False, soft_wrap=True))
    return settings, "" if healthy else said.getvalue()
