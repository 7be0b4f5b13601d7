"""The whole stub: the KFP API and the Kubernetes API, each on a port of its own, over one world."""

from __future__ import annotations

from pathlib import Path

from tests.engines.kubeflow.stub import cluster, kfp
from tests.engines.kubeflow.stub.containers import Image
from tests.engines.kubeflow.stub.http import Server
from tests.engines.kubeflow.stub.world import RUNTIME_IMAGE, World
from tests.fixtures.s3 import S3Server


class Stub(World):
    """The world with its two servers; the session has one, ``reset`` before each test.

    - ``kfp``, ``cluster``: the servers: ``.url``, ``.faults.add(method, path, status=…|kind=…, times=…, after=…)``,
      ``.down()``, ``.up()``, ``.tokens = {"…"}`` (all others get 401), ``.calls`` (a Counter by "METHOD template").
    - ``images``, ``nodes``, ``claim(name)``, ``put_secret``, ``allowed``: what the cluster has.
    - ``hold``/``release`` a state, ``agent(False)``, ``force`` a state, ``forget`` a run, ``script`` a failure of the
      next pods, ``fail_pod``/``delete_pod`` of one that is there, ``grace``, ``log_limit``, ``secrets_synced``.
    - ``run(name)``, ``pods_of(run_id)``, ``living()``, ``wait(condition)``: what happened.
    """

    def __init__(self, root: Path, s3: S3Server | None = None) -> None:
        super().__init__(root, s3)
        self.kfp = Server("kfp", kfp.KfpApi(self).handle, kfp.refuse)
        self.cluster = Server("kubernetes", cluster.ClusterApi(self).handle, cluster.refuse)

    def simulate(self, image: str = RUNTIME_IMAGE) -> None:
        """Containers of this image are no processes: they run until ``finish``."""
        self.images[image] = Image(image, simulated=True)

    def reset(self) -> None:
        for server in (self.kfp, self.cluster):
            server.faults.clear()
        super().reset()
        for server in (self.kfp, self.cluster):
            server.reset()

    def close(self) -> None:
        super().close()

    def stop(self) -> None:
        """The end of the session."""
        super().close()
        for server in (self.kfp, self.cluster):
            server.close()
