"""One run from its launch to nothing, as one program: the tests run it in an environment that has what
``pip install kwdbml[kubeflow]`` brings, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kwdbml
from kwdbml.engines.base import Run
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kubeflow import KubeflowEngine

RUN = "kwdbml-test-1"


async def run(settings: KubeflowSettings, root: Path, step: str) -> dict[str, Any]:
    engine = KubeflowEngine(settings, root, command=["python", "-c", step])
    await engine.start()
    try:
        workspace = await engine.open(Run(RUN))
        (workspace.inputs / "job.json").write_text(json.dumps({"do": [["say", "hello"]]}), encoding="utf-8")
        handle = await engine.launch(Run(RUN), workspace)
        while not (status := await engine.wait(handle, 10)).ended:
            pass
        lines = [line.line for line in (await engine.logs(handle)).lines]
        outputs = sorted(path.name for path in (await engine.collect(handle)).outputs.iterdir() if path.is_file())
        await engine.cleanup(handle)
    finally:
        await engine.close()
    return {"state": status.state.value, "message": status.message, "lines": lines, "outputs": outputs}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told = KubeflowSettings.model_validate(given["settings"])
    answer = asyncio.run(run(told, Path(given["root"]), given["step"]))
    place = Path(kwdbml.__file__).parent
    print(json.dumps({"kubernetes": version("kubernetes"), "place": str(place), "sdk": "kfp" in sys.modules, **answer}))
