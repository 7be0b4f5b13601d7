"""What KFP's driver and launcher put into a container's command: parameters, paths and addresses of artifacts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.engines.kubeflow.stub.ir import Json, Task

_PLACEHOLDER = re.compile(r"\{\{\$(.*?)\}\}")
_ITEM = re.compile(r"\.(inputs|outputs)\.(parameters|artifacts)\['([^']+)'\](?:\.(\w+)(?:\['([^']+)'\])?)?")
#: Where the launcher has a container write its output parameters.
PARAMETER_FILES = "/tmp/kfp/outputs"


class DriverError(Exception):
    """The driver cannot make the executor's input: the task fails without an executor pod."""


@dataclass(slots=True)
class Execution:
    """One execution of a task: its inputs and where its outputs go."""

    task: Task
    run_id: str
    run_name: str  # the workflow's resource name
    display_name: str
    parameters: Json = field(default_factory=dict)
    artifacts: dict[str, Json] = field(default_factory=dict)  # name → {"name", "uri", "metadata"}
    outputs: dict[str, Json] = field(default_factory=dict)

    def document(self) -> Json:
        """ExecutorInput, which a container gets as ``{{$}}``."""
        definitions = self.task.definitions.get("outputDefinitions", {}).get("parameters", {})
        return {
            "inputs": {
                "parameterValues": self.parameters,
                "artifacts": {name: {"artifacts": [one]} for name, one in self.artifacts.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": f"{PARAMETER_FILES}/{name}"} for name in definitions},
                "artifacts": {name: {"artifacts": [one]} for name, one in self.outputs.items()},
                "outputFile": "/tmp/kfp_outputs/output_metadata.json",
            },
        }

    def fill(self, words: Sequence[str]) -> list[str]:
        """A command or arguments without placeholders."""
        return [filled for word in words for filled in self._word(word)]

    def _word(self, word: str) -> list[str]:
        if word.startswith(('{"Concat":', '{"IfPresent":')):
            return self._structure(json.loads(word))
        return [_PLACEHOLDER.sub(lambda found: self._value(found[1]), word)]

    def _structure(self, value: Any) -> list[str]:
        if isinstance(value, str):
            return self._word(value)
        if isinstance(value, list):
            return [one for item in value for one in self._structure(item)]
        if "Concat" in value:
            return ["".join(self._structure(value["Concat"]))]
        choice = value["IfPresent"]
        present = choice["InputName"] in self.parameters or choice["InputName"] in self.artifacts
        return self._structure(choice["Then"] if present else choice.get("Else", []))

    def _value(self, path: str) -> str:
        plain = {
            "": json.dumps(self.document()),
            ".pipeline_job_name": self.display_name,
            ".pipeline_job_resource_name": self.run_name,
            ".pipeline_job_uuid": self.run_id,
            ".pipeline_task_name": self.task.name,
            ".pipeline_task_uuid": self.task.name,
            ".outputs.output_metadata_file": "/tmp/kfp_outputs/output_metadata.json",
        }
        if path in plain:
            return plain[path]
        found = _ITEM.fullmatch(path)
        if found is None:
            raise DriverError(f"unknown placeholder {{{{${path}}}}}")
        side, kind, name, attribute, key = found.groups()
        if kind == "parameters":
            return self._parameter(side, name)
        return self._artifact(side, name, attribute, key)

    def _parameter(self, side: str, name: str) -> str:
        if side == "outputs":
            return f"{PARAMETER_FILES}/{name}"
        if name not in self.parameters:
            raise DriverError(f"the task has no input parameter {name!r}")
        value = self.parameters[name]
        return value if isinstance(value, str) else json.dumps(value)

    def _artifact(self, side: str, name: str, attribute: str, key: str | None) -> str:
        artifact = (self.artifacts if side == "inputs" else self.outputs).get(name)
        if artifact is None:
            raise DriverError(f"the task has no artifact {name!r} among its {side}")
        match attribute:
            case "uri":
                return str(artifact["uri"])
            case "path":
                return local_path(artifact["uri"])
            case "metadata":
                value = artifact.get("metadata", {})
                return json.dumps(value if key is None else value.get(key))
            case _:
                return str(artifact.get(attribute, ""))


def local_path(uri: str) -> str:
    """Where the launcher puts an artifact: ``s3://bucket/key`` → ``/s3/bucket/key``."""
    scheme, _, rest = uri.partition("://")
    return f"/{'gcs' if scheme == 'gs' else scheme}/{rest}"
