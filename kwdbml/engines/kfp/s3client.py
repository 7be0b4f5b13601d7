"""boto3's client for a store that need not be Amazon's, and that something else may answer for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from kwdbml.engines.kfp import ending
from kwdbml.engines.kfp.settings import S3Settings

#: What every store's success holds, one of these: as a header, or in a body that botocore reads leniently.
_SAYS = {
    "PutObject": ("ETag",),
    "GetObject": ("ETag",),
    "UploadPart": ("ETag",),
    "CreateMultipartUpload": ("UploadId",),
    "CompleteMultipartUpload": ("ETag", "Location"),
    "ListObjectsV2": ("Name", "KeyCount", "IsTruncated"),
    "ListMultipartUploads": ("Bucket", "IsTruncated", "MaxUploads"),
}


def s3client(settings: S3Settings, endpoint: str) -> Any:
    """Path style, as every store that is not Amazon's takes it; payloads signed, so that a damaged one is refused."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path", "payload_signing_enabled": True},
        retries={"mode": "standard", "total_max_attempts": 4},
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        max_pool_connections=16,
        # newer checksums are unknown to older stores, and would have to be in the pods' signed addresses
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key.get_secret_value(),
        verify=str(settings.ca_file) if settings.ca_file else None,
        config=config,
    )
    add_md5: Callable[..., None] = _add_md5
    client.meta.events.register("before-sign.s3.DeleteObjects", add_md5)
    client.meta.events.register("before-send.s3", _go_on)
    client.meta.events.register("after-call.s3", _of_a_store)
    return client


def _go_on(event_name: str, **_: object) -> None:
    """Also before botocore's own tries. What nobody waits for any more may still take back what it has begun."""
    if not event_name.endswith(".AbortMultipartUpload"):
        ending.go_on()


def _of_a_store(http_response: Any, parsed: Any, model: Any, **_: object) -> None:
    """To botocore any page with a 200 is an empty listing, or something written. ClientError without a code for it."""
    if http_response.status_code >= 300:
        return
    if (said := _SAYS.get(model.name)) is not None:
        known = any(name in parsed for name in said)
    elif model.name == "DeleteObjects":  # it lists the failures alone: mostly none
        known = b"DeleteResult" in http_response.content
    else:
        known = not http_response.content.strip()
    if not known:
        if "Body" in parsed:
            parsed["Body"].close()
        status = {"HTTPStatusCode": http_response.status_code}
        raise ClientError({"Error": {}, "ResponseMetadata": status}, model.name)


def _add_md5(request: Any, **_: object) -> None:
    """Older stores insist on it for a deletion of many, which boto3 no longer sends."""
    body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
