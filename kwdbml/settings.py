"""Settings of a worker: flags of ``kwdbml worker`` over environment variables ``KWDBML_…`` over a file over defaults.

``kwdbml.configuration`` reads and merges them.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kwdbml.engines.kfp.settings import KubeflowSettings

EngineName = Literal["local", "kubeflow"]


class WorkerSettings(BaseSettings):
    """What a worker may be told. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="KWDBML_", env_ignore_empty=True, extra="ignore", validate_default=True, hide_input_in_errors=True
    )

    dsn: SecretStr = Field(description="libpq connection string of the worker's own, powerless role")
    name: str = Field(default_factory=socket.gethostname, description="shown as kwdbml.jobs.worker")
    concurrency: int = Field(default=1, ge=1, le=1024, description="jobs at once on the local engine")
    queues: list[str] | None = Field(default=None, description="serve only these queues; all by default")
    engines: list[EngineName] | None = Field(
        default=None, description="serve only these; by default local, and kubeflow when its host is set"
    )
    kubeflow: KubeflowSettings | None = Field(default=None, description="the Kubeflow engine: see docs/kubeflow.md")
    scratch: Path | None = Field(default=None, description="where the local engine keeps its runs")
    scratch_limit: ByteSize = Field(
        default=ByteSize(20 << 30),
        ge=1 << 20,
        le=1 << 60,
        description="bytes that one run may write into its scratch directory",
    )
    lease: float = Field(
        default=30.0, ge=1.0, description="after so long without a heartbeat another worker takes over"
    )
    heartbeat: float = Field(default=5.0, gt=0, description="how often leases are renewed")
    sweep: float = Field(default=5.0, gt=0, description="how often to look for what no notification told")
    pythons: dict[str, Path] = Field(
        default={}, description="other Pythons than the worker's own, by the names that rows of kwdbml.runtime use"
    )
    unsafe_no_sandbox: bool = Field(default=False, description="run uploaded code without a sandbox")
    install_requirements: bool = Field(default=True, description="install what a bundle's requirements.txt asks for")
    allow_superuser: bool = Field(default=False, description="run although the role of the DSN is a superuser")

    @field_validator("dsn")
    @classmethod
    def _one_line(cls, dsn: SecretStr) -> SecretStr:
        """A file's last newline is not meant; in an address it would belong to the database's name."""
        return SecretStr(dsn.get_secret_value().strip())

    @property
    def engine_names(self) -> tuple[EngineName, ...]:
        if self.engines is not None:
            return tuple(dict.fromkeys(self.engines))
        return ("local", "kubeflow") if self.kubeflow else ("local",)

    def slots(self, engine: str) -> int:
        """How many jobs may be at work at once on an engine: one that is away or full holds up no other."""
        return self.kubeflow.concurrency if engine == "kubeflow" and self.kubeflow else self.concurrency

    @property
    def lease_interval(self) -> timedelta:
        return timedelta(seconds=self.lease)
