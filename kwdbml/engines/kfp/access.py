"""What a pod may fetch and write: the access document, full of signed addresses, and the Secret that leads to it.

The Secret holds one address and a hash; the document, which has the job's ``env`` in it as well, lies in the store
under a name made of its content. So a renewed document is a new object, and a pod that sees an old Secret for another
minute still finds what belongs to it. Whoever follows the run can renew: the newest document says all that is needed.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from kwdbml import travel
from kwdbml.engines.kfp.objectstore import ObjectStore, Stored
from kwdbml.errors import EngineError
from kwdbml.model import JobType

Document = dict[str, Any]

VERSION = 1
#: The files that a step may leave: small ones, written at once, and large ones in parts.
SMALL = ("result.json", "error.json")
LARGE = ("model.zip", "transformer.zip", "predictions.arrow")
SMALL_LIMIT = 64 << 20
#: The inputs that may be sent in parts.
LONG_INPUTS = (
    *(travel.PARQUET, *travel.PACKAGES.values()),
    *("pipeline.zip", "transformer.zip", "model.zip", "active-model.zip", "active-transformer.zip"),
)
#: Sizes of the parts of a large output. They grow, so that few addresses are enough for a small file and a huge one.
PART_SIZES = tuple(size << 20 for size in (16, 64, 256, 1024) for _ in range(24 if size < 1024 else 48))
LARGE_LIMIT = sum(PART_SIZES)
MANIFEST, LOG = "manifest.json", "log"
_DOCUMENT_LIMIT = 8 << 20
_OF_TYPE = {
    JobType.TRAIN: ("model.zip", "transformer.zip"),
    JobType.EVALUATE: (),
    JobType.BATCH_PREDICT: ("predictions.arrow",),
}


class FilesGone(EngineError):
    """A run has no access document (any more)."""

    @property
    def type_name(self) -> str:
        return EngineError.__name__


def output_names(kind: JobType | None) -> tuple[str, ...]:
    """What a run of that type may leave."""
    return SMALL + (LARGE if kind is None else _OF_TYPE[kind])


def begin_outputs(store: ObjectStore, run: str, kind: JobType | None) -> dict[str, Document]:
    """A place for each output; the large ones' uploads are begun, because only who has a key can do that."""
    names = output_names(kind)
    return {
        name: {"upload_id": store.begin(store.key(run, "out", name)), "sizes": list(PART_SIZES)}
        if name in LARGE
        else {}
        for name in names
    }


def input_key(store: ObjectStore, run: str, turn: str, name: str) -> str:
    """``turn``: the launch's own. What a document names is never written again: a worker that has lost its lease, and
    does not know it, writes elsewhere."""
    return store.key(run, "in", turn, name)


def publish(store: ObjectStore, run: str, document: Document, presign: int) -> str:
    """Sign every address of the document anew, put it into the store; the text of the Secret's access.json."""
    _sign(store, run, document, presign)
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    key = store.key(run, "access", _name_of(content))
    store.put(key, content)
    authority = store.settings.ca_file
    secret = {
        "version": VERSION,
        "document": {"url": store.url_get(key, presign), "sha256": digest},
        "expires": document["expires"],
        "ca": authority.read_text(encoding="ascii") if authority else None,
    }
    return json.dumps(secret)


def renew(store: ObjectStore, run: str, presign: int) -> str:
    """New addresses for a run that may need them still; the Secret's new text. FilesGone when there is nothing left."""
    return publish(store, run, read_document(store, run), presign)


def read_document(store: ObjectStore, run: str, turn: str = "") -> Document:
    """The newest access document, of that ``turn``. FilesGone when the run has none."""
    found = sorted(store.names(store.key(run, "access", "")), key=lambda item: (item[1], item[0]), reverse=True)
    for key, _ in found:
        document = _read(store, run, key)
        if document is not None and turn in ("", document["turn"]):
            return document
    raise FilesGone(
        f"the files of {run} are gone from the object store",
        hint="Submit the job again; if it happens again, look for who else deletes in the bucket.",
    )


def _read(store: ObjectStore, run: str, key: str) -> Document | None:
    content = store.get(key, limit=_DOCUMENT_LIMIT)
    if content is None:
        return None
    if not _intact(key, content):
        raise EngineError(
            f"the access document of {run} is damaged: its SHA-256 is not the one in its name",
            hint="Run the job again; if it happens again, look for who else writes to the bucket.",
            retryable=True,
        )
    document: Document = json.loads(content)
    return document


def _name_of(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:16]}.json"


def _intact(key: str, content: bytes) -> bool:
    return key.endswith("/" + _name_of(content))


def uploads(store: ObjectStore, run: str) -> set[tuple[str, str]]:
    """The large outputs' uploads in all access documents that the run has had: (name of the output, id)."""
    found = set()
    for key, _ in store.names(store.key(run, "access", "")):
        content = store.get(key, limit=_DOCUMENT_LIMIT)
        outputs = json.loads(content)["outputs"] if content and _intact(key, content) else {}
        found |= {(name, str(place["upload_id"])) for name, place in outputs.items() if place.get("upload_id")}
    return found


def delete_run(store: ObjectStore, run: str) -> None:
    """Everything of a run; may be called twice. MinIO lists no unfinished uploads by a prefix: those of outputs we know
    by their ids, and those of a launch that was cut off it tells by their whole keys."""
    for name, upload in uploads(store, run):
        store.abort(store.key(run, "out", name), upload)
    turns = {key.split("/")[-2] for key, _ in store.names(store.key(run, "in", ""))}
    keys = [input_key(store, run, turn, name) for turn in turns for name in LONG_INPUTS]
    for key in (*keys, *(store.key(run, "out", name) for name in LARGE)):
        for begun in list(store.unfinished(key)):
            store.abort(begun["Key"], begun["UploadId"])
    store.delete_run(run)


def recorded(item: Document) -> Stored:
    return Stored(int(item["bytes"]), str(item["sha256"]))


def _sign(store: ObjectStore, run: str, document: Document, presign: int) -> None:
    document["expires"] = int(time.time()) + presign
    for item in document["inputs"]:
        item["url"] = store.url_get(input_key(store, run, document["turn"], item["name"]), presign)
    for name, place in document["outputs"].items():
        key = store.key(run, "out", name)
        if upload := place.get("upload_id"):
            numbers = range(1, len(place["sizes"]) + 1)
            place["parts"] = [store.url_part(key, upload, number, presign) for number in numbers]
        else:
            place["put"] = store.url_put(key, presign)
    for name, key in ((LOG, store.key(run, "out", LOG)), ("manifest", store.key(run, MANIFEST))):
        document[name] = {"put": store.url_put(key, presign)}
