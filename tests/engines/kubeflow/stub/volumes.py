"""Secrets, claims and artifacts as files, as the kubelet and KFP's launcher lay them out."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.engines.kubeflow.stub.placeholders import local_path
from tests.fixtures.s3 import S3Server


def write_secret(directory: Path, secret: dict[str, Any]) -> None:
    """A Secret's volume: files that are links through ``..data``, which is swapped in one step at an update."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"..{secrets.token_hex(6)}"
    fresh.mkdir()
    for key, value in secret.get("data", {}).items():
        (fresh / key).write_bytes(base64.b64decode(value))
    old = (directory / "..data").resolve() if (directory / "..data").is_symlink() else None
    os.symlink(fresh.name, directory / "..new")
    os.rename(directory / "..new", directory / "..data")
    for key in secret.get("data", {}):
        if not (directory / key).is_symlink():
            os.symlink(f"..data/{key}", directory / key)
    for path in directory.iterdir():
        if not path.name.startswith("..") and path.name not in secret.get("data", {}):
            path.unlink()
    if old is not None:
        shutil.rmtree(old)


class Artifacts:
    """KFP's artifact store, as the launcher sees it."""

    def __init__(self, s3: S3Server | None, scratch: Path) -> None:
        self._s3, self._scratch = s3, scratch

    def place(self, uri: str) -> Path:
        """Where a container's artifact lies on this machine."""
        return self._scratch / local_path(uri).lstrip("/")

    def upload(self, uri: str) -> None:
        """A file, or a directory's files; nothing when the container wrote none."""
        place = self.place(uri)
        parts = urlsplit(uri)
        files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
        for path in files:
            if path.exists():
                key = parts.path.lstrip("/") + str(path)[len(str(place)) :]
                self._client().upload_file(str(path), parts.netloc, key)

    def download(self, uri: str) -> None:
        parts = urlsplit(uri)
        place, prefix = self.place(uri), parts.path.lstrip("/")
        for found in self._client().list_objects_v2(Bucket=parts.netloc, Prefix=prefix).get("Contents", []):
            target = Path(str(place) + found["Key"][len(prefix) :])
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client().download_file(parts.netloc, found["Key"], str(target))

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        assert self._s3 is not None, "this pipeline has artifacts: the stub needs a store"
        return boto3.client(
            "s3",
            endpoint_url=self._s3.endpoint,
            aws_access_key_id=self._s3.access_key,
            aws_secret_access_key=self._s3.secret_key,
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=5,
                read_timeout=10,
                retries={"total_max_attempts": 2},
            ),
        )
