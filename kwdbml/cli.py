"""``kwdbml``: the command line. Arguments in, answers out; what it does is elsewhere."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from kwdbml.errors import EngineError, KwdbmlError, WrongState

if TYPE_CHECKING:
    from kwdbml.engines.base import Engine
    from kwdbml.settings import WorkerSettings

app = typer.Typer(
    help="Machine learning as SQL: the embedded server, the worker, the extension.",
    no_args_is_help=True,
    add_completion=False,
)
extension_app = typer.Typer(help="The extension of an existing PostgreSQL server.", no_args_is_help=True)
app.add_typer(extension_app, name="extension")

#: Of a worker. Data that are read slowly hold one each, and others must not wait for them.
_THREADS = 64

# What a worker may be told, and so the doctor: one of each in kwdbml.settings. What is not said here is read there.
Dsn = Annotated[str | None, typer.Option(help="The worker's own role; or KWDBML_DSN.")]
Concurrency = Annotated[int | None, typer.Option(help="Jobs at once on the local engine.")]
Queues = Annotated[list[str] | None, typer.Option(help="Serve only this queue; may be repeated.")]
Scratch = Annotated[Path | None, typer.Option(help="Where runs keep their files.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file with settings; or KWDBML_CONFIG.")]
Engines = Annotated[list[str] | None, typer.Option(help="Serve only this engine (local, kubeflow); may be repeated.")]
OtherSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.NAME=VALUE",
        help="A setting of the file's sections kubeflow and s3, such as kubeflow.namespace=team-a; may be repeated.",
    ),
]  # fmt: skip
Pythons = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="A Python in which a row of kwdbml.runtime may run; may be repeated."),
]
UnsafeNoSandbox = Annotated[bool, typer.Option("--unsafe-no-sandbox", help="Run uploaded code without a sandbox.")]
InstallRequirements = Annotated[
    bool | None,
    typer.Option(
        "--install-requirements/--no-install-requirements",
        help="Install what a bundle's requirements.txt asks for; so it is by default.",
    ),
]
AllowSuperuser = Annotated[bool, typer.Option("--allow-superuser", help="Run although the role is a superuser.")]

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


def _given(pythons: list[str] | None, **options: Any) -> dict[str, Any]:
    """What was said of a worker's settings, and nothing of what was not."""
    said = {name: value for name, value in options.items() if value is not None and value != []}
    return said | ({"pythons": dict(map(_named, pythons))} if pythons else {})


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise typer.BadParameter(f'"{text}" is not NAME=PATH', param_hint="--python")
    return name, path


@app.command()
def worker(
    dsn: Dsn = None,
    concurrency: Concurrency = None,
    queue: Queues = None,
    scratch: Scratch = None,
    config: Config = None,
    engine: Engines = None,
    setting: OtherSettings = None,
    python: Pythons = None,
    unsafe_no_sandbox: UnsafeNoSandbox = False,
    install_requirements: InstallRequirements = None,
    allow_superuser: AllowSuperuser = False,
) -> None:
    """Run a worker for an existing server until SIGTERM, which drains it."""
    given = _given(
        python, dsn=dsn, concurrency=concurrency, queues=queue, scratch=scratch, engines=engine,
        unsafe_no_sandbox=unsafe_no_sandbox or None, allow_superuser=allow_superuser or None,
        install_requirements=install_requirements,
    )  # fmt: skip
    _configure_log()
    with _failing():
        asyncio.run(_work(given, setting or [], config))


@app.command()
def doctor(
    dsn: Dsn = None,
    concurrency: Concurrency = None,
    queue: Queues = None,
    scratch: Scratch = None,
    config: Config = None,
    engine: Engines = None,
    setting: OtherSettings = None,
    python: Pythons = None,
    unsafe_no_sandbox: UnsafeNoSandbox = False,
    install_requirements: InstallRequirements = None,
    allow_superuser: AllowSuperuser = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of lines.")] = False,
) -> None:
    """Look at all that a worker with these settings needs; say what is wrong (exit code 1), and the cure."""
    from kwdbml import configuration
    from kwdbml.doctor import examination, report

    given = _given(
        python, dsn=dsn, concurrency=concurrency, queues=queue, scratch=scratch, engines=engine,
        unsafe_no_sandbox=unsafe_no_sandbox or None, allow_superuser=allow_superuser or None,
        install_requirements=install_requirements,
    )  # fmt: skip
    with _failing():
        findings = examination.examine({**configuration.overrides(setting or []), **given}, config)
        healthy = report.tell_json(findings) if as_json else report.tell(findings)
    if not healthy:
        raise typer.Exit(1)


async def _work(given: dict[str, Any], settings_of_sections: list[str], config: Path | None) -> None:
    from psycopg_pool import PoolTimeout

    from kwdbml import configuration, readiness
    from kwdbml.worker.loop import Worker

    readiness.keep()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="kwdbml"))
    settings = configuration.load({**configuration.overrides(settings_of_sections), **given}, config)
    one = Worker(settings, _engines(settings))

    async def announce() -> None:
        await one.ready.wait()
        structlog.get_logger().info("worker.ready", name=settings.name, engines=",".join(settings.engine_names))
        readiness.announce()
        await readiness.show_life()

    telling = asyncio.create_task(announce())
    try:
        await one.run()
    except PoolTimeout as error:
        raise WrongState(
            "the worker has no connection to its database",
            hint="kwdbml doctor, with the same settings, says why, and the cure.",
            detail=str(error),
        ) from None
    finally:
        telling.cancel()


def _engines(settings: WorkerSettings) -> dict[str, Engine]:
    from kwdbml.engines.local import LocalEngine, default_root

    engines: dict[str, Engine] = {}
    if "local" in settings.engine_names:
        engines["local"] = LocalEngine(
            settings.scratch,
            concurrency=settings.concurrency,
            disk=int(settings.scratch_limit),
            unsafe_no_sandbox=settings.unsafe_no_sandbox,
            pythons=settings.pythons,
        )
    if "kubeflow" in settings.engine_names and settings.kubeflow is not None:
        try:
            from kwdbml.engines.kubeflow import KubeflowEngine
        except ImportError as error:
            raise EngineError(
                f"the engine kubeflow needs {error.name}, which is not installed",
                hint="pip install 'kwdbml[kubeflow]'",
            ) from None
        root = (settings.scratch or default_root()) / "kubeflow"
        engines["kubeflow"] = KubeflowEngine(settings.kubeflow, root, disk=int(settings.scratch_limit))
    return engines


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
