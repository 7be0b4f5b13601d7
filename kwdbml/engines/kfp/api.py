"""The KFP API (v2beta1) over its generated client: blocking calls, to be made in threads.

What it answers is read by ``answers.py``: what is not in KFP's own words, whatever its status, is of something else.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import kfp_server_api
from urllib3.exceptions import HTTPError

from kwdbml.engines.kfp import answers, backoff, ending
from kwdbml.engines.kfp.answers import Experiment, Health, KfpRun
from kwdbml.engines.kfp.backoff import ApiError, NotItself, Server
from kwdbml.engines.kfp.pipeline import Filled
from kwdbml.engines.kfp.settings import KubeflowSettings
from kwdbml.engines.kfp.token import Token

Json = dict[str, Any]
T = TypeVar("T")
Reader = Callable[[Json, float], T]

CONNECTIONS = 16
_PAGE = 200  # the most that KFP gives at once
_CONNECT = 10.0


class KfpApi:
    """``sleep``: for tests."""

    def __init__(self, settings: KubeflowSettings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._sleep = settings, sleep
        configuration = kfp_server_api.Configuration(host=settings.host)
        configuration.ssl_ca_cert = str(settings.ca_file) if settings.ca_file else None
        configuration.retries = False  # what to repeat is decided here
        configuration.connection_pool_maxsize = CONNECTIONS
        self._client = kfp_server_api.ApiClient(configuration)
        self._runs = kfp_server_api.RunServiceApi(self._client)
        self._experiments = kfp_server_api.ExperimentServiceApi(self._client)
        self._health = kfp_server_api.HealthzServiceApi(self._client)
        self._token = Token(settings)
        self._server = Server(
            "Kubeflow Pipelines", settings.host, "KWDBML_KFP_HOST",
            "Give a token that it takes as KWDBML_KFP_TOKEN_FILE or KWDBML_KFP_TOKEN.",
            f"Allow the token's account to create, get, list, terminate, archive and delete runs in namespace "
            f"{settings.namespace}.",
            "Give the certificate of its authority as KWDBML_KFP_CA_FILE, or correct KWDBML_KFP_HOST.",
            own=lambda said: type(said.get("code")) is int and 0 < said["code"] <= 16,  # gRPC's codes
        )  # fmt: skip
        self._lock = threading.Lock()
        self._multi_user: bool | None = None
        self._experiment: str | None = None
        self._unsure: dict[str, bool] = {}  # names of runs that may have been made; True: one got no answer at all

    # -- runs ----------------------------------------------------------------------------------------------------

    def create(self, filled: Filled) -> KfpRun:
        """Start a run: once. After a lost answer it is looked up by its name before it is sent again."""
        name, waits, failure = filled.display_name, backoff.pauses(), None
        for _ in range(backoff.ATTEMPTS):
            if found := self._made_after_all(name):
                return found
            try:
                return self._send(name, self._document(filled))
            except ApiError as error:
                failure = error
                if error.status == 404:
                    self._experiment = None  # deleted under us: another one is made when this is tried again
                elif not error.retryable:
                    raise
                self._sleep(max(next(waits), min(error.retry_after or 0.0, _CONNECT)))
        if found := self._made_after_all(name):
            return found
        assert failure is not None  # noqa: S101 for the type checker
        raise _final(failure)

    def is_unsure(self, name: str) -> bool:
        """Whether a creation of that name has got no answer, or none yet, and was not found since."""
        return self._unsure.get(name, False)

    def give_up(self, name: str) -> None:
        """Nothing of that name is to come any more."""
        self._unsure.pop(name, None)

    def _send(self, name: str, document: Any) -> KfpRun:
        ending.go_on()
        before = self._unsure.get(name)
        self._unsure[name] = True  # before it leaves us: the answer may be one that nobody waits for
        try:
            made = self._ask(f"creating run {name}", answers.run, self._runs.run_service_create_run, document)
        except ApiError as error:
            # a 500 is its own answer: what it has not made by then it does not make
            if error.sent:
                before = bool(before) or error.status != 500
            self.give_up(name) if before is None else self._unsure.update({name: before})
            raise
        self.give_up(name)
        return made

    def _made_after_all(self, name: str) -> KfpRun | None:
        """The run whose creation got no answer, where it was made all the same."""
        if name not in self._unsure or not (found := self.find(name)):
            return None
        self.give_up(name)
        return found[0]

    def _document(self, filled: Filled) -> Any:
        return kfp_server_api.V2beta1Run(
            display_name=filled.display_name,
            description=filled.description,
            experiment_id=self._experiment_id(),
            pipeline_spec=filled.spec,
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(
                parameters=filled.parameters, pipeline_root=filled.pipeline_root
            ),
            service_account=filled.service_account,
        )

    def get(self, run_id: str) -> KfpRun | None:
        """None when there is none: deleted under us, or never there."""
        try:
            read = functools.partial(answers.the_run, run_id)
            return self._repeat(f"looking at run {run_id}", read, self._runs.run_service_get_run, run_id)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def find(self, name: str) -> list[KfpRun]:
        """Runs of that name that are not archived, the oldest first. More than one: a creation was sent twice."""
        found = [run for run in self._list([_is("display_name", name)]) if run.name == name and not run.archived]
        return sorted(found, key=lambda run: (run.created, run.run_id))

    def unfinished(self, prefix: str) -> list[KfpRun]:
        """Runs whose names begin so, neither ended nor archived."""
        wanted = [
            {"key": "display_name", "operation": "IS_SUBSTRING", "string_value": prefix},
            *({"key": "state", "operation": "NOT_EQUALS", "string_value": state} for state in answers.ENDED),
        ]
        return [run for run in self._list(wanted) if run.name.startswith(prefix) and not run.archived and not run.ended]

    def _list(self, predicates: list[Json]) -> Iterator[KfpRun]:
        """All pages. Not of one experiment: a run must be found after the setting was changed, too."""
        asked: Json = {
            "page_size": _PAGE, "sort_by": "created_at asc", "filter": json.dumps({"predicates": predicates}),
            **self._of_namespace(),
        }  # fmt: skip
        seen = set()
        while True:
            page = self._repeat("listing runs", answers.page, self._runs.run_service_list_runs, **asked)
            yield from page.runs
            if not page.more or page.more in seen:
                return
            seen.add(page.more)
            asked["page_token"] = page.more

    def terminate(self, run_id: str) -> None:
        """A run that has ended or is gone: nothing to do."""
        self._unless((400, 404, 409), f"terminating run {run_id}", self._runs.run_service_terminate_run, run_id)

    def put_away(self, run_id: str) -> None:
        """Archive or delete an ended run, as ``keep`` says. One that is gone: nothing to do."""
        if self._settings.keep == "delete":
            self._unless((404,), f"deleting run {run_id}", self._runs.run_service_delete_run, run_id)
        else:
            self._unless((404,), f"archiving run {run_id}", self._runs.run_service_archive_run, run_id)

    def _unless(self, accepted: tuple[int, ...], doing: str, method: Callable[..., Any], run_id: str) -> None:
        try:
            self._repeat(doing, answers.done, method, run_id)
        except ApiError as error:
            if error.status not in accepted:
                raise

    # -- experiment ----------------------------------------------------------------------------------------------

    def check(self) -> str:
        """For those who ask whether it works: the id of our experiment, made where it was not there."""
        self._experiment = None
        return self._experiment_id()

    def health(self) -> Health:
        return self._repeat("asking for its health", answers.health, self._health.healthz_service_get_healthz)

    def version(self) -> str:
        """As the older API tells it; empty where that is not there."""
        path = "/apis/v1beta1/healthz"
        call = functools.partial(self._client.call_api, path, "GET", {}, [], {}, _return_http_data_only=True)
        try:
            return self._repeat("asking for its version", answers.version, call)
        except NotItself:
            return ""
        except ApiError as error:
            if error.status in (404, 405, 501):
                return ""
            raise

    def _experiment_id(self) -> str:
        with self._lock:
            if self._experiment is None:
                self._experiment = (self._find_experiment() or self._make_experiment()).experiment_id
            return self._experiment

    def _find_experiment(self) -> Experiment | None:
        name = self._settings.experiment
        listed = self._repeat(
            "listing experiments",
            answers.experiments,
            self._experiments.experiment_service_list_experiments,
            filter=json.dumps({"predicates": [_is("display_name", name)]}),
            **self._of_namespace(),
        )
        found = next((one for one in listed if one.name == name), None)
        if found is not None and found.archived:
            raise ApiError(
                f'experiment "{name}" is archived, and takes no runs',
                hint="Restore it in Kubeflow Pipelines, or name another one as KWDBML_KFP_EXPERIMENT.",
            )
        return found

    def _make_experiment(self) -> Experiment:
        body = kfp_server_api.V2beta1Experiment(
            display_name=self._settings.experiment, description="Runs of kwdbml", **self._of_namespace()
        )
        try:
            create = self._experiments.experiment_service_create_experiment
            return self._ask("creating the experiment", answers.experiment, create, body)
        except ApiError as error:
            found = self._find_experiment() if error.status == 409 or error.sent else None  # another worker was quicker
            if found is None:
                raise
            return found

    def _of_namespace(self) -> dict[str, str]:
        """An installation with users of its own wants to be told the namespace."""
        if self._multi_user is None:
            self._multi_user = self.health().multi_user
        return {"namespace": self._settings.namespace} if self._multi_user else {}

    # -- calls ---------------------------------------------------------------------------------------------------

    def _repeat(self, doing: str, read: Reader[T], method: Callable[..., Any], *arguments: Any, **named: Any) -> T:
        return backoff.repeated(lambda: self._ask(doing, read, method, *arguments, **named), sleep=self._sleep)

    def _ask(self, doing: str, read: Reader[T], method: Callable[..., Any], *arguments: Any, **named: Any) -> T:
        """One call; a second one with the token read anew when the first one's was not taken."""
        try:
            return self._once(doing, read, method, *arguments, **named)
        except ApiError as error:
            if not error.stranger or not self._token.renew():
                raise
        return self._once(doing, read, method, *arguments, **named)

    def _once(self, doing: str, read: Reader[T], method: Callable[..., Any], *arguments: Any, **named: Any) -> T:
        if token := self._token.value():
            self._client.set_default_header("Authorization", f"Bearer {token}")
        wait = self._settings.timeout
        try:
            response = method(*arguments, **named, _preload_content=False, _request_timeout=(min(_CONNECT, wait), wait))
            body, now = response.data, answers.seconds(response.headers.get("Date"))
        except kfp_server_api.ApiException as error:
            raise self._explained(doing, error) from error
        except (HTTPError, OSError) as error:
            raise backoff.unreachable(self._server, doing, error) from error
        except (AttributeError, UnicodeDecodeError) as error:
            # The client decodes an error's body, which may be none (TLS) or no text; what it had is the context.
            raise self._explained(doing, error.__context__ or error) from error
        return backoff.heard(self._server, doing, body, lambda answer: read(answer, now))

    def _explained(self, doing: str, error: BaseException) -> ApiError:
        if isinstance(error, kfp_server_api.ApiException) and error.status:
            body = error.body if isinstance(error.body, bytes) else str(error.body or "").encode()
            return backoff.refused(self._server, doing, error.status, error.headers or {}, body)
        cause = error.__context__ or error
        return backoff.unreachable(self._server, doing, cause if isinstance(cause, Exception) else ValueError(cause))


def _final(error: ApiError) -> ApiError:
    """Of a creation that was tried often enough: KFP answers 500 to a pipeline that it cannot read, for ever."""
    if error.status == 500:
        error.retryable = False
    return error


def _is(key: str, value: str) -> Json:
    return {"key": key, "operation": "EQUALS", "string_value": value}
