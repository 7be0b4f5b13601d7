"""The pipelines as the kfp SDK writes them, compiled to ``pipelines/*.yaml``; the worker needs no SDK, it loads those.

One pipeline per type of job, one container component each: its container imports data and bundles, prepares, trains
(or evaluates, or predicts) and collects, because every further component costs two more pods and half a minute
(docs/decisions). ``kwdbml.engines.kfp.pipeline`` fills in what differs between runs.

``python -m kwdbml.engines.kfp.authoring`` writes the compiled pipelines; with ``--check`` it says which differ.
"""

# No "from __future__ import annotations" here: the SDK reads the parameters' types themselves, not their names.
import sys
import tempfile
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from kwdbml.engines.kfp.pipeline import ACCESS_DIRECTORY, ACCESS_FILE, PIPELINES

_PLACEHOLDER = "kwdbml-runtime"  # the image and the Secret's name are filled in for each run
_COMMAND = ["python", "-m", "kwdbml.steps.pod", "--access", f"{ACCESS_DIRECTORY}/{ACCESS_FILE}"]
_DESCRIPTIONS = {
    "train": "Trains a model of kwdbml: imports data and bundle, prepares, trains, collects the model.",
    "evaluate": "Evaluates a model of kwdbml: imports data and model, prepares, evaluates, collects the metrics.",
    "batch-predict": "Predicts with a model of kwdbml: imports data and model, prepares, predicts, collects the rows.",
}


def build(kind: str) -> Any:
    """The pipeline of one type of job: a single step that is started once, never cached and never repeated.

    What the parameters say is for people who look at the run; what the step needs comes by the Secret.
    """
    component = _component(kind)

    @dsl.pipeline(name=f"kwdbml-{kind}", description=_DESCRIPTIONS[kind])  # type: ignore[untyped-decorator]
    def pipeline(
        run: str,
        job: str,
        attempt: int,
        installation: str,
        type: str,  # noqa: A002
        model: str,
        creator: str,
        ttl: float,
    ) -> None:
        task = component(
            run=run, job=job, attempt=attempt, installation=installation,
            type=type, model=model, creator=creator, ttl=ttl,
        )  # fmt: skip
        task.set_caching_options(False)
        kubernetes.use_secret_as_volume(task, secret_name=_PLACEHOLDER, mount_path=ACCESS_DIRECTORY, optional=False)

    return pipeline


def _component(kind: str) -> Any:
    def step(run: str, job: str, attempt: int, installation: str, type: str, model: str, creator: str, ttl: float):  # type: ignore[no-untyped-def] # noqa: A002, ARG001
        return dsl.ContainerSpec(image=_PLACEHOLDER, command=_COMMAND)

    step.__name__ = kind.replace("-", "_")
    return dsl.container_component(step)


def compile_to(directory: Path) -> None:
    for kind in PIPELINES:
        compiler.Compiler().compile(build(kind), str(directory / f"{kind}.yaml"))


def differing(directory: Path) -> list[str]:
    """Names of the compiled pipelines in ``directory`` that are not what this module compiles to."""
    with tempfile.TemporaryDirectory() as fresh:
        compile_to(Path(fresh))
        return [
            f"{kind}.yaml"
            for kind in PIPELINES
            if _meaning(directory / f"{kind}.yaml") != _meaning(Path(fresh) / f"{kind}.yaml")
        ]


def _meaning(path: Path) -> list[str] | None:
    """All but the line with the SDK's version: another release of it that compiles to the same is no difference."""
    if not path.is_file():
        return None
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("sdkVersion: ")]


def main(arguments: list[str]) -> int:
    directory = Path(__file__).parent / "pipelines"
    if arguments == ["--check"]:
        found = differing(directory)
        if found:
            sys.stderr.write(f"not what the SDK compiles: {', '.join(found)}. Run python -m {__spec__.name}\n")
        return 1 if found else 0
    directory.mkdir(exist_ok=True)
    compile_to(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
