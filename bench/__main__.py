"""``python -m bench [NAME…]``: each bench on a server of its own; all of them without a name."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from contextlib import ExitStack

from bench.report import Result, Scale, say
from bench.server import Server, start

NAMES = (
    "staging",
    "train",
    "batch_predict",
    "submit",
    "pickup",
    "concurrency",
    "show_jobs",
    "memory",
    "kubeflow_scale",
)


def one(name: str, server: Server, scale: Scale) -> Result:
    say(f"{name}: {scale.rounds} rounds{', smoke' if scale.smoke else ''}, {len(os.sched_getaffinity(0))} cores")
    result: Result = importlib.import_module(f"bench.{name}").run(server, scale)
    say(result.line)
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Ours and the peer's, in one run.")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, one server: does it run?")
    given = parser.parse_args(arguments)
    # so that servers and workers are stopped then too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = Scale(1 if given.smoke else given.rounds, given.smoke)
    results = []
    with ExitStack() as shared:
        server = shared.enter_context(start()) if given.smoke else None
        for name in given.names or NAMES:
            if server is not None:
                results.append(one(name, server, scale))
                continue
            with start() as own:
                results.append(one(name, own, scale))
    if len(results) > 1:
        say("\n" + "\n".join(result.line for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
