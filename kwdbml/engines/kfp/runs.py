"""The run of a name: there is at most one that counts, and whether there is one can be unknown for a while.

Should a run be created twice, by two workers that do not know of each other or because an answer was lost, the first
one that a Secret of its own is made for (``Cluster.claim``) is the run, and the others are terminated.
"""

from __future__ import annotations

import functools
import math

from kwdbml.engines.kfp import names
from kwdbml.engines.kfp.answers import KfpRun
from kwdbml.engines.kfp.api import KfpApi
from kwdbml.engines.kfp.backoff import ApiError
from kwdbml.engines.kfp.calls import Calls
from kwdbml.engines.kfp.cluster import Cluster

_REMEMBERED = 600.0  # seconds for which a refusal answers for all servers, also while they are away
_COMES_WITHIN = 120.0  # seconds in which a run is there whose creation got no answer; gateways end a request before


class Runs:
    """Looked up patiently: while nobody answers, this waits."""

    def __init__(self, calls: Calls, api: KfpApi, cluster: Cluster) -> None:
        self._calls, self._api, self._cluster = calls, api, cluster
        self._outlast = functools.partial(calls.outlast, patient=True)
        self._refused: dict[str, float] = {}  # those that were never created, and since when we know

    def begin(self, name: str) -> None:
        """It is launched, perhaps again."""
        self._refused.pop(name, None)

    def refuse(self, name: str) -> None:
        """It was not created and never will be: by us. Another worker may launch it later."""
        late = self._calls.clock.now() - _REMEMBERED
        self._refused = {one: since for one, since in self._refused.items() if since > late}
        self._refused[name] = self._calls.clock.now()

    async def find(self, name: str) -> KfpRun | None:
        """The run, as far as Kubeflow knows."""
        found = await self._outlast(self._api.find, name)
        return await self.choose(name, found) if found else None

    async def surely(self, name: str) -> KfpRun | None:
        """The run; None when there is none and none is to come: a creation of ours may have got no answer."""
        if self._calls.clock.now() - self._refused.get(name, -math.inf) < _REMEMBERED:
            return None
        until = self._calls.clock.now() + _COMES_WITHIN
        await self._outlast(self._decided, name, until)
        return await self.find(name)

    def _decided(self, name: str, until: float) -> None:
        if not self._api.is_unsure(name) or self._api.find(name):
            return
        if self._calls.clock.now() < until:
            raise ApiError(f"Kubeflow Pipelines did not say whether it has created run {name}", retryable=True)
        self._api.give_up(name)

    async def choose(self, name: str, found: list[KfpRun]) -> KfpRun:
        """The one that counts; the others are terminated."""
        chosen = await self._outlast(self._cluster.claim, name, found[0].run_id)
        run = next((one for one in found if one.run_id == chosen), None) or await self._outlast(self._api.get, chosen)
        if run is None or run.archived or run.name != name:  # of an earlier run, which was not wholly put away
            await self._outlast(self._cluster.delete_secret, names.claim_name(name))
            return await self.choose(name, found)
        for double in found:
            if double.run_id != chosen:
                await self._outlast(self._api.terminate, double.run_id)
                await self._outlast(self._api.put_away, double.run_id)
        return run
