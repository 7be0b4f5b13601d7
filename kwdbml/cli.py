"""``kwdbml``: the command line. Arguments in, answers out; what it does is elsewhere."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from kwdbml.errors import KwdbmlError

app = typer.Typer(
    help="Machine learning as SQL: the embedded server, the worker, the extension.",
    no_args_is_help=True,
    add_completion=False,
)
extension_app = typer.Typer(help="The extension of an existing PostgreSQL server.", no_args_is_help=True)
app.add_typer(extension_app, name="extension")

DataDir = Annotated[Path | None, typer.Option(help="Data directory; the default lies beside the virtual environment.")]


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _failing() -> Iterator[None]:
    """An error of ours is told, with its cure, and the exit code is 1."""
    try:
        yield
    except KwdbmlError as error:
        _say(f"error: {error.message}")
        for name, text in (("detail", error.detail), ("hint", error.hint)):
            if text:
                _say(f"{name}: {text}")
        raise typer.Exit(1) from None


@app.command()
def up(
    data_dir: DataDir = None,
    port: Annotated[int | None, typer.Option(help="TCP port on 127.0.0.1; a free one by default.")] = None,
) -> None:
    """Start the embedded PostgreSQL and a worker; the last line printed is the superuser's DSN."""
    from kwdbml import embedded

    with _failing():
        started = embedded.up(data_dir, port, say=_say)
    typer.echo(started.dsn)


@app.command()
def status(data_dir: DataDir = None) -> None:
    """Say what runs; exit code 3 when server or worker do not."""
    from kwdbml import embedded

    with _failing():
        found = embedded.status(data_dir)
    typer.echo(f"data directory  {found.data_dir}" + ("" if found.exists else " (not made yet)"))
    typer.echo(
        f"server          {f'running, pid {found.server_pid}, port {found.port}' if found.server_pid else 'stopped'}"
    )
    typer.echo(f"worker          {f'running, pid {found.worker_pid}' if found.worker_pid else 'stopped'}")
    typer.echo(f"logs            {found.server_log}  {found.worker_log}")
    if not found.running:
        raise typer.Exit(3)


@app.command()
def down(
    data_dir: DataDir = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that running jobs have to finish.")] = 30.0,
) -> None:
    """Stop the worker and the embedded server; a job that does not finish in time goes on at the next up."""
    from kwdbml import embedded

    with _failing():
        stopped = embedded.down(data_dir, drain=drain, say=_say)
    for what, ran in (("worker", stopped.worker_ran), ("server", stopped.server_ran)):
        typer.echo(f"{what}: {'stopped' if ran else 'was not running'}")


@app.command()
def worker(
    dsn: Annotated[
        str | None, typer.Option(help="The worker's own role; or KWDBML_DSN.", envvar="KWDBML_DSN", show_envvar=False)
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at once.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Serve only this queue; may be repeated.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Where runs keep their files.")] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A Python in which a row of kwdbml.runtime may run; may be repeated."),
    ] = None,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run uploaded code without a sandbox.")
    ] = False,
    install_requirements: Annotated[
        bool | None,
        typer.Option(
            "--install-requirements/--no-install-requirements",
            help="Install what a bundle's requirements.txt asks for.",
            show_default="installed",
        ),
    ] = None,
    allow_superuser: Annotated[
        bool, typer.Option("--allow-superuser", help="Run although the role is a superuser.")
    ] = False,
) -> None:
    """Run a worker for an existing server until SIGTERM, which drains it."""
    given: dict[str, Any] = {
        "dsn": dsn, "concurrency": concurrency, "queues": queue or None, "scratch": scratch,
        "pythons": dict(_named(text) for text in python) if python else None,
        "unsafe_no_sandbox": unsafe_no_sandbox or None, "allow_superuser": allow_superuser or None,
        "install_requirements": install_requirements,
    }  # fmt: skip
    _configure_log()
    with _failing():
        asyncio.run(_work({k: v for k, v in given.items() if v is not None}))


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise typer.BadParameter(f'"{text}" is not NAME=PATH', param_hint="--python")
    return name, path


async def _work(given: dict[str, Any]) -> None:
    from pydantic import ValidationError

    from kwdbml import readiness
    from kwdbml.engines.local import LocalEngine
    from kwdbml.errors import InvalidParameter
    from kwdbml.settings import WorkerSettings
    from kwdbml.worker.loop import Worker

    readiness.keep()
    try:
        settings = WorkerSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(p) for p in first["loc"])
        raise InvalidParameter(
            f"setting {name}: {first['msg']}", hint=f"Pass --{name} or set KWDBML_{name.upper()}."
        ) from None
    engine = LocalEngine(
        settings.scratch,
        concurrency=settings.concurrency,
        disk=int(settings.scratch_limit),
        unsafe_no_sandbox=settings.unsafe_no_sandbox,
        pythons=settings.pythons,
    )
    one = Worker(settings, {"local": engine})

    async def announce() -> None:
        await one.ready.wait()
        readiness.announce()

    telling = asyncio.create_task(announce())
    try:
        await one.run()
    finally:
        telling.cancel()


def _configure_log() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@extension_app.command("install")
def install(
    pg_config: Annotated[str, typer.Option(help="pg_config of the server.")] = "pg_config",
) -> None:
    """Put control file, SQL and server-side Python where the server finds them."""
    from kwdbml import extension

    with _failing():
        done = extension.install(pg_config)
    typer.echo(f"{'installed' if done.changed else 'already there'}: {done.control}, {done.python}")
    typer.echo("next, as a superuser: CREATE EXTENSION kwdbml CASCADE;")
