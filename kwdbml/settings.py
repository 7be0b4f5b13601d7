"""Settings of a worker: flags of ``kwdbml worker`` over environment variables ``KWDBML_…`` over defaults."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

from pydantic import ByteSize, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """What a worker may be told. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="KWDBML_", extra="ignore", validate_default=True)

    dsn: SecretStr = Field(description="libpq connection string of the worker's own, powerless role")
    name: str = Field(default_factory=socket.gethostname, description="shown as kwdbml.jobs.worker")
    concurrency: int = Field(default=1, ge=1, le=1024, description="jobs at once")
    queues: list[str] | None = Field(default=None, description="serve only these queues; all by default")
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

    @property
    def lease_interval(self) -> timedelta:
        return timedelta(seconds=self.lease)
