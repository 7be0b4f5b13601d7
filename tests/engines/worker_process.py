"""A worker for tests to kill: ``worker_process.py ROOT POINT NAME DO`` opens or launches a run and stops for ever.

Points: ``warm`` (idle sandboxes only), ``opened``, ``recorded`` (the record is written, go has not been said),
``launched``. Prints one JSON line when it is there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from kwdbml.engines import slots
from kwdbml.engines.base import Run
from kwdbml.engines.local import LocalEngine

STEP = Path(__file__).with_name("step.py")


async def stop(**message: Any) -> None:
    print(json.dumps(message), flush=True)
    await asyncio.Event().wait()


async def main(root: str, point: str, name: str, do: str) -> None:
    engine = LocalEngine(Path(root), command=[sys.executable, str(STEP)], extra_paths=[STEP], warm=2)
    await engine.start()
    await engine.warmed()
    if point == "warm":
        await stop()
    run = Run(name)
    workspace = await engine.open(run)
    (workspace.inputs / "job.json").write_text(do)
    if point == "opened":
        await stop(workspace=str(workspace.path))
    if point == "recorded":

        async def never(slot: slots.Slot, order: dict[str, Any]) -> None:
            await stop(pid=slot.process.pid)

        slots.Slot.go = never  # type: ignore[method-assign, assignment]
    handle = await engine.launch(run, workspace)
    await stop(handle=handle)


asyncio.run(main(*sys.argv[1:]))
