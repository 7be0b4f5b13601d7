"""The compiled pipeline (IR) and its Kubernetes part, checked with KFP's own protobufs, made easy to walk.

What is not here (loops, conditions, importers, pipelines in pipelines) the stub refuses aloud: it would be a 200 on a
real server, and our pipelines have none of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

Json = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_TYPES: dict[str, tuple[type, ...]] = {
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


class IrError(Exception):
    """The pipeline cannot be read: the server's 500."""


class ParameterError(Exception):
    """The run's parameters do not fit: the server's 400."""


class Unsupported(Exception):
    """A real server could do it, this one cannot."""


@dataclass(slots=True)
class Task:
    """One component of the root DAG."""

    name: str
    component: str
    container: Json  # image, command, args, env, resources
    inputs: Json  # parameters, artifacts: where each comes from
    definitions: Json  # the component's inputDefinitions and outputDefinitions
    after: set[str]
    platform: Json = field(default_factory=dict)  # KubernetesExecutorConfig
    retries: int = 0
    cached: bool = False


@dataclass(slots=True)
class Pipeline:
    name: str
    parameters: Json  # the root's input definitions
    tasks: dict[str, Task]
    spec: Json  # as it was given


def read(document: Any) -> Pipeline:
    """The pipeline of a run's ``pipeline_spec``: the IR alone, or beside it a ``platform_spec``."""
    return _read(json.dumps(document))


@lru_cache(64)
def _read(text: str) -> Pipeline:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise IrError("invalid v2 pipeline spec: not an object")
    spec = document.get("pipeline_spec", document)
    platform = document.get("platform_spec", {}) if "pipeline_spec" in document else {}
    if extra := set(document) - {"pipeline_spec", "platform_spec"} if "pipeline_spec" in document else set():
        raise IrError(f"unknown template format: {sorted(extra)}")
    plain = _parse_spec(spec)
    executors = plain.get("deploymentSpec", {}).get("executors", {})
    configs = _parse_platform(platform, executors)
    name = plain.get("pipelineInfo", {}).get("name", "")
    if not _NAME.fullmatch(name) or len(name) > 128:
        raise IrError(
            f"invalid v2 pipeline spec: name {name!r} should consist of lower case alphanumeric characters or '-'"
        )
    root = plain.get("root", {})
    tasks = {
        task_name: _task(task_name, task, plain, executors, configs)
        for task_name, task in root.get("dag", {}).get("tasks", {}).items()
    }
    if not tasks:
        raise IrError("invalid v2 pipeline spec: the root component has no DAG of tasks")
    for task in tasks.values():
        if missing := task.after - set(tasks):
            raise IrError(f"task {task.name!r} depends on unknown tasks {sorted(missing)}")
    return Pipeline(name, root.get("inputDefinitions", {}).get("parameters", {}), tasks, document)


def _parse_spec(spec: Any) -> Json:
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        message = ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        deployment = ParseDict(MessageToDict(message.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig())
    except (ParseError, AttributeError, TypeError) as error:
        raise IrError(f"invalid v2 pipeline spec: {error}") from error
    plain: Json = MessageToDict(message)
    if plain.get("schemaVersion") != "2.1.0":
        raise IrError(f"PipelineSpec has unexpected schema version {plain.get('schemaVersion')!r}, expect 2.1.0")
    plain["deploymentSpec"] = MessageToDict(deployment)
    return plain


def _parse_platform(platform: Any, executors: Json) -> dict[str, Json]:
    from kfp.kubernetes import kubernetes_executor_config_pb2
    from kfp.pipeline_spec import pipeline_spec_pb2

    try:
        plain: Json = MessageToDict(ParseDict(platform, pipeline_spec_pb2.PlatformSpec()))
        given = plain.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        parsed = {
            name: MessageToDict(ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig()))
            for name, config in given.items()
        }
    except (ParseError, AttributeError, TypeError) as error:
        raise IrError(f"failed to unmarshal kubernetes config: {error}") from error
    if unknown := set(parsed) - set(executors):
        raise IrError(f"platform spec for unknown executors {sorted(unknown)}")
    return parsed


def _task(name: str, task: Json, spec: Json, executors: Json, configs: dict[str, Json]) -> Task:
    reference = task.get("componentRef", {}).get("name", "")
    component = spec.get("components", {}).get(reference)
    if component is None:
        raise IrError(f"component {reference!r} of task {name!r} not found in pipeline spec")
    strange = {"iterator", "parameterIterator", "artifactIterator", "triggerPolicy"} & set(task)
    if strange or "dag" in component:
        raise Unsupported(f"task {name!r}: {sorted(strange) or 'a DAG in a DAG'} is beyond this stub")
    label = component.get("executorLabel", "")
    container = executors.get(label, {}).get("container")
    if container is None:
        raise IrError(f"executor {label!r} of component {reference!r} is no container")
    inputs = task.get("inputs", {})
    return Task(
        name=name,
        component=reference,
        container=container,
        inputs=inputs,
        definitions=component,
        after=set(task.get("dependentTasks", [])) | _producers(inputs),
        platform=configs.get(label, {}),
        retries=int(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
        cached=bool(task.get("cachingOptions", {}).get("enableCache", False)),
    )


def _producers(inputs: Json) -> set[str]:
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    found = {source.get(kind, {}).get("producerTask") for source in sources for kind in _OUTPUTS}
    return {producer for producer in found if producer}


_OUTPUTS = ("taskOutputParameter", "taskOutputArtifact")


def run_parameters(pipeline: Pipeline, given: Json) -> Json:
    """The run's values: what was given over the defaults. Unknown, mistyped and missing ones are refused."""
    for name, value in given.items():
        definition = pipeline.parameters.get(name)
        if definition is None:
            raise ParameterError(f"parameter {name} is not in the pipeline's input definitions")
        _check_type(name, value, definition["parameterType"])
    values: Json = {}
    for name, definition in pipeline.parameters.items():
        if name in given:
            values[name] = numbers(given[name])
        elif "defaultValue" in definition:
            values[name] = numbers(definition["defaultValue"])
        elif not definition.get("isOptional"):
            raise ParameterError(f"parameter {name} is required and has no value")
    return values


def numbers(value: Any) -> Any:
    """Protobuf knows doubles alone; Go writes a whole one without a point, and so do we."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    return value


def _check_type(name: str, value: Any, kind: str) -> None:
    right = isinstance(value, _TYPES.get(kind, (object,))) and (kind == "BOOLEAN" or not isinstance(value, bool))
    if not right or (kind == "NUMBER_INTEGER" and value != int(value)):
        raise ParameterError(
            f"input parameter {name} requires type {kind}, but the parameter value is {json.dumps(value)}"
        )
