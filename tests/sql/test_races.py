"""Whoever changes the versions of a model does so against everybody else, in every order, and the registry stays whole.

The first of two transactions has done its work and not committed; the second is let run until it waits for a lock or is
through; then the first commits, and then the second. Locks are awaited by looking at them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.fixtures.bundles import zipped
from tests.fixtures.database import Connect, MakeRole
from tests.sql.support import Connection, Held, Person, Worker, one, refused, rows, run

MODEL = zipped({"model/model.joblib": "not looked at here"})
FEATURES = '[{"name": "amount", "type": "FLOAT"}, {"name": "kind", "type": "STRING"}]'
TARGET = '[{"name": "late", "type": "INT"}]'
IMPORT = "SELECT kwdbml.import_model(%s, '', 'b', 'sklearn_1.3', 'python_3.8', %s::jsonb, %s::jsonb, %s, NULL)"
EVALUATE = "SELECT kwdbml.evaluate_model('', %s, 2, 'shop', 'f1')"
DEADLINE = 120.0

#: What must be empty after any race: models, jobs and requests that are not whole.
BROKEN = """
SELECT 'active versions of ' || m.name, count(v.id) FILTER (WHERE v.active)::int
FROM kwdbml.model m LEFT JOIN kwdbml.model_version v ON v.model_id = m.id
GROUP BY m.id HAVING count(v.id) FILTER (WHERE v.active) <> 1 OR m.next_version <= max(v.version)
UNION ALL
SELECT 'vanished version of job ' || j.id, j.model_version FROM kwdbml.job j
WHERE j.status = 'RUNNING' AND j.type <> 'TRAIN' AND j.model_version_id IS NULL
UNION ALL SELECT 'requests', count(*)::int FROM kwdbml.request HAVING count(*) > 0
"""


@dataclass
class Ring:
    """Ann's table and pipeline, models of three versions each, and connections to race with."""

    db: Connection
    ann: Person
    worker_dsn: str
    connect: Connect
    claimer: Worker

    def model(self, name: str, versions: int = 3) -> str:
        for _ in range(versions):
            self.ann.connection.execute(IMPORT.encode(), [name, FEATURES, TARGET, MODEL])
        return name

    def held(self, statement: str, name: str) -> Held:
        return self.claimer.claim(one(self.ann.connection, statement, [name]))

    def connection(self, who: str) -> Connection:
        return self.connect(self.ann.role.dsn if who == "ann" else self.worker_dsn, autocommit=False)

    def wait(self, second: Connection, done: Future[Any]) -> None:
        """Until ``second`` waits for somebody's lock, or is through."""
        until = time.monotonic() + DEADLINE
        while not done.done():
            assert time.monotonic() < until, "it neither ended nor waited"
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)"
            if one(self.db, waits, [second.info.backend_pid]):
                return

    def whole(self) -> None:
        assert rows(self.db, BROKEN) == []


@pytest.fixture
def ring(
    db: Connection, ann: Person, shop: Connection, pipeline: str, worker: Worker, worker_dsn: str, connect: Connect
) -> Ring:
    return Ring(db, ann, worker_dsn, connect, worker)


Step = Callable[[Connection], Any]


def meanwhile(call: Step, connection: Connection) -> Future[Any]:
    """Call it in a thread of its own."""
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(call(connection))
        except psycopg.Error as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return done


def outcome(done: Future[Any], connection: Connection) -> str | None:
    """The SQLSTATE with which it ended, with a hint where it is ours; its transaction is over then."""
    error = done.exception(timeout=DEADLINE)
    if error is None:
        connection.commit()
        return None
    connection.rollback()
    assert isinstance(error, psycopg.Error)
    assert error.diag.message_hint or error.sqlstate in ("40001", "40P01"), error
    return error.sqlstate


def asks(statement: str) -> Callable[[Ring, str], tuple[str, Step]]:
    return lambda ring, name: ("ann", lambda c: one(c, statement, [name]))


def imports(ring: Ring, name: str) -> tuple[str, Step]:
    return "ann", lambda c: one(c, IMPORT, [name, FEATURES, TARGET, MODEL])


def land(held: Held, **outcome: Any) -> Step:
    def step(connection: Connection) -> str:
        worker = Worker("", connection)
        put = worker.call("worker_put", held, None, "model", 0, b"model")
        artefacts = [{"id": str(put), "bytes": 5, "sha256": "x"}]
        return worker.land(held, metrics=[{"objective": "f1", "score": 0.5}], artefacts=artefacts, **outcome)

    return step


def trains(ring: Ring, name: str) -> tuple[str, Step]:
    held = ring.held("SELECT kwdbml.train_model('p', %s, 'shop', true, true)", name)
    return "worker", land(held)


def evaluates(ring: Ring, name: str) -> tuple[str, Step]:
    held = ring.held(EVALUATE, name)
    return "worker", lambda c: Worker("", c).land(held, metrics=[{"objective": "f1", "score": 0.7}])


ACTIONS: dict[str, Callable[[Ring, str], tuple[str, Step]]] = {
    "deploy 3": asks("SELECT kwdbml.set_active_version(%s, 3)"),
    "deploy 2": asks("SELECT kwdbml.set_active_version(%s, 2)"),
    "remove 2": asks("SELECT kwdbml.remove_model(%s, 2)"),
    "remove": asks("SELECT kwdbml.remove_model(%s)"),
    "import": imports,
    "submit": asks(EVALUATE),
    "train": trains,
    "evaluate": evaluates,
}


def race(ring: Ring, name: str, first: str, second: str, isolation: str) -> tuple[str | None, str | None]:
    """The SQLSTATEs with which the two end, the first of them not committed when the second begins."""
    ring.model(name)
    turns = [ACTIONS[first](ring, name), ACTIONS[second](ring, name)]
    connections = [ring.connection(who) for who, _ in turns]
    for connection, (who, _) in zip(connections, turns, strict=True):
        if who == "ann":  # the worker's transactions are its own
            run(connection, f"SET TRANSACTION ISOLATION LEVEL {isolation}", "SELECT count(*) FROM kwdbml.model")
    before = meanwhile(turns[0][1], connections[0])
    before.exception(timeout=DEADLINE)
    after = meanwhile(turns[1][1], connections[1])
    ring.wait(connections[1], after)
    ends = outcome(before, connections[0]), outcome(after, connections[1])
    for connection in connections:
        connection.close()
    return ends


#: first → how each second ends, in the order of ACTIONS; a point is success.
AT_ONCE = {
    "READ COMMITTED": {
        "deploy 3": ". . . . . . . .",
        "deploy 2": ". . 55006 . . . . .",
        "remove 2": ". 42704 42704 . . 42704 . .",
        "remove": "42704 42704 42704 42704 . 42704 . .",
        "import": ". . . . . . . .",
        "submit": ". . 55006 55006 . . . .",
        "train": ". . . . . . . .",
        "evaluate": ". . . . . . . .",
    },
    # whoever has looked before the first committed is told to try again, where that one has changed the model
    "REPEATABLE READ": {
        "deploy 3": "40001 40001 40001 40001 40001 . . .",
        "deploy 2": "40001 40001 40001 40001 40001 . . .",
        "remove 2": "40001 40001 40001 40001 40001 40001 . .",
        "remove": "40001 40001 40001 40001 . 40001 . .",
        "import": "40001 40001 40001 40001 40001 . . .",
        "submit": ". . 40001 40001 . . . .",
        "train": "40001 40001 40001 40001 40001 . . .",
        "evaluate": "40001 40001 40001 40001 40001 . . .",
    },
}
#: Where the job of the second runs already, the first is what is refused.
IN_USE = {("remove 2", "evaluate"), ("remove", "evaluate"), ("remove", "train")}


@pytest.mark.parametrize("first", list(ACTIONS))
@pytest.mark.parametrize("isolation", list(AT_ONCE))
def test_any_two_at_once(ring: Ring, isolation: str, first: str) -> None:
    for number, (second, ends) in enumerate(zip(ACTIONS, AT_ONCE[isolation][first].split(), strict=True)):
        found = race(ring, f"m{number}", first, second, isolation)
        expected = ("55006" if (first, second) in IN_USE else None, None if ends == "." else ends)
        assert found == expected, f"{first}, then {second}"
        ring.whole()
        for (job,) in rows(ring.db, "SELECT id::text FROM kwdbml.job WHERE status = 'RUNNING'"):
            one(ring.db, "SELECT kwdbml.remove_job(%s)", [job])


TRAIN = "SELECT kwdbml.train_model('p', 'n', 'shop', {}, {})"


def two_landings(ring: Ring, may_exist: str) -> tuple[list[str], Connection, Future[Any], Connection]:
    """Two trainings of "n" that both finish: their jobs, the connection of the first, which has not committed, and the
    second, which waits for it."""
    jobs = [str(one(ring.ann.connection, TRAIN.format(may_exist, "true"))) for _ in range(2)]
    held = [ring.claimer.claim(job) for job in jobs]
    first, second = ring.connection("worker"), ring.connection("worker")
    land(held[0])(first)
    after = meanwhile(land(held[1]), second)
    ring.wait(second, after)
    assert not after.done()
    return jobs, first, after, second


@pytest.mark.parametrize(("made", "ends"), [(0, [(1, False), (2, True)]), (1, [(1, False), (2, False), (3, True)])])
def test_two_trainings_that_finish_together_are_two_versions(
    ring: Ring, made: int, ends: list[tuple[int, bool]]
) -> None:
    ring.model("n", made)
    _, first, after, second = two_landings(ring, "true")
    first.commit()
    assert outcome(after, second) is None
    assert rows(ring.db, "SELECT version, active FROM kwdbml.model_version ORDER BY 1") == ends
    ring.whole()


def test_of_two_for_a_new_name_the_second_is_told(ring: Ring) -> None:
    _, first, after, second = two_landings(ring, "false")
    first.commit()
    assert outcome(after, second) == "42710"
    assert rows(ring.db, "SELECT version, active FROM kwdbml.model_version") == [(1, True)]
    ring.whole()


def test_a_landing_that_rolls_back_leaves_the_other_alone(ring: Ring) -> None:
    jobs, first, after, second = two_landings(ring, "false")
    first.rollback()
    assert outcome(after, second) is None
    assert rows(ring.db, "SELECT version, active, job_id::text FROM kwdbml.model_version") == [(1, True, jobs[1])]
    ring.whole()


def test_a_model_and_its_versions_are_always_locked_in_one_order(ring: Ring, connect: Connect, dsn: str) -> None:
    """Somebody holds version 1; a deployment of 2 waits for it and holds the model; an evaluation of 2 lands."""
    ring.model("n")
    held = ring.held(EVALUATE, "n")
    holder, deploys, lands = connect(dsn, autocommit=False), ring.connection("ann"), ring.connection("worker")
    run(holder, "SELECT FROM kwdbml.model_version WHERE version = 1 FOR UPDATE")
    deployed = meanwhile(lambda c: one(c, "SELECT kwdbml.set_active_version('n', 2)"), deploys)
    ring.wait(deploys, deployed)
    landed = meanwhile(lambda c: Worker("", c).land(held, metrics=[{"objective": "f1", "score": 0.7}]), lands)
    ring.wait(lands, landed)
    assert (deployed.done(), landed.done()) == (False, False)
    holder.commit()
    assert (outcome(deployed, deploys), outcome(landed, lands)) == (None, None)
    assert rows(ring.db, "SELECT version, last_metrics IS NULL FROM kwdbml.model_version WHERE active") == [(2, False)]


def test_who_locks_two_models_crosswise_is_told_so(ring: Ring) -> None:
    """PostgreSQL ends one of the two; the other one goes on, and nothing is half done."""
    ring.model("a", 2), ring.model("b", 2)
    two = [ring.connection("ann"), ring.connection("ann")]
    deploy = "SELECT kwdbml.set_active_version(%s, 2)"
    one(two[0], deploy, ["a"])
    one(two[1], deploy, ["b"])
    first = meanwhile(lambda c: one(c, deploy, ["b"]), two[0])
    ring.wait(two[0], first)
    second = meanwhile(lambda c: one(c, deploy, ["a"]), two[1])
    # the one that is ended lets the other go on
    loser, winner = ((first, two[0]), (second, two[1]))[:: -1 if second.exception(DEADLINE) else 1]
    assert (outcome(*loser), outcome(*winner)) == ("40P01", None)
    ring.whole()
    assert rows(ring.db, "SELECT count(*) FROM kwdbml.model_version WHERE active AND version = 2") == [(2,)]


def test_a_model_that_a_running_job_trains_stays(ring: Ring) -> None:
    ring.model("n")
    job = one(ring.ann.connection, TRAIN.format("true", "true"))
    with refused("55006", "n", hint="an admin can cancel it"):
        one(ring.ann.connection, "SELECT kwdbml.remove_model('n')")
    held = ring.claimer.claim(job)
    with refused("55006", "n", hint="cancel"):
        one(ring.ann.connection, "SELECT kwdbml.remove_model('n')")
    one(ring.ann.connection, "SELECT kwdbml.cancel_job(%s)", [job])
    assert one(ring.ann.connection, "SELECT kwdbml.remove_model('n')") == "public.n"
    with refused("55000"):
        land(held)(ring.claimer.connection)
    assert rows(ring.db, "SELECT FROM kwdbml.model") == []


def test_the_job_that_uses_a_version_may_be_anothers(ring: Ring, role: MakeRole) -> None:
    """Who removes it does not see that job, and is told who can end it."""
    ring.model("n")
    bob = role("bob")
    run(ring.ann.connection, "GRANT SELECT ON shop TO PUBLIC")
    one(ring.ann.connection, "SELECT kwdbml.grant_privilege_on_model('n', %s, 'EVALUATE')", [bob.name])
    job = one(bob.connect(), EVALUATE, ["n"])
    assert rows(ring.ann.connection, "SELECT * FROM kwdbml.show_jobs(ARRAY['RUNNING'])") == []
    for call in ("remove_model('n', 2)", "remove_model('n')"):
        with refused("55006", "version 2", hint="may be another role's, which you do not see: an admin can cancel it"):
            one(ring.ann.connection, f"SELECT kwdbml.{call}")
    one(ring.db, "SELECT kwdbml.cancel_job(%s)", [job])
    assert one(ring.ann.connection, "SELECT kwdbml.remove_model('n', 2)") == "public.n"


def grants(verb: str) -> Callable[[Ring, str], tuple[str, Step]]:
    return asks(f"SELECT kwdbml.{verb}_privilege_on_model(%s, 'syspublic', 'ALL')")


#: How the second of two ends, in READ COMMITTED, with privileges among the two.
WITH_GRANTS = {
    ("grant", "import"): None, ("import", "grant"): None, ("revoke", "import"): None, ("import", "revoke"): None,
    ("grant", "revoke"): None, ("revoke", "grant"): None, ("grant", "grant"): None, ("revoke", "revoke"): None,
    ("grant", "remove"): None, ("remove", "grant"): "42704", ("revoke", "remove"): None, ("remove", "revoke"): "42704",
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), list(WITH_GRANTS))
def test_privileges_and_versions_at_once(ring: Ring, monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    for name in ("grant", "revoke"):
        monkeypatch.setitem(ACTIONS, name, grants(name))
    assert race(ring, "n", first, second, "READ COMMITTED") == (None, WITH_GRANTS[first, second])
    ring.whole()


def test_two_that_grant_and_go_on_come_one_after_the_other(ring: Ring) -> None:
    """Were a grant's lock on the model a shared one, each would wait for the other."""
    ring.model("n")
    two = [ring.connection("ann"), ring.connection("ann")]

    def work(connection: Connection) -> None:
        one(connection, "SELECT kwdbml.grant_privilege_on_model('n', 'syspublic', 'SELECT')")
        one(connection, "SELECT kwdbml.revoke_privilege_on_model('n', 'syspublic', 'UPDATE')")

    work(two[0])
    second = meanwhile(work, two[1])
    ring.wait(two[1], second)
    one(two[0], "SELECT kwdbml.set_active_version('n', 2)")
    two[0].commit()
    assert outcome(second, two[1]) is None
    one(two[1], IMPORT, ["n", FEATURES, TARGET, MODEL])
    two[1].commit()
    ring.whole()


#: A right's check that takes a while, of whoever is called bob.
SLOW_RIGHT = """
CREATE OR REPLACE FUNCTION kwdbml._model_right(model uuid, wanted text, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer boolean := kwdbml._model_right_itself(model, wanted, who);
BEGIN
    IF who = '{}' THEN
        PERFORM pg_advisory_lock(9);
        PERFORM pg_advisory_unlock(9);
    END IF;
    RETURN answer;
END
$$"""


@pytest.mark.parametrize("ready", [False, True])
def test_a_right_that_is_granted_while_one_asks(
    ring: Ring, role: MakeRole, dsn: str, connect: Connect, ready: bool
) -> None:
    """Who had none at the first look has locked nothing: he must not go on with a version's number that is taken."""
    ring.model("n", 1)
    ann, bob, holder = ring.ann.connection, role("bob", create_on=["public"]), connect(dsn)
    grant = "SELECT kwdbml.grant_privilege_on_model('n', %s, 'CREATE|SELECT')"
    if ready:
        one(ann, grant, [bob.name])
    ask = (
        "INSERT INTO kwdbml.request (kind, arguments, bundles) VALUES ('import_model', jsonb_build_object("
        "'schema', 'public', 'name', 'n', 'problem_type', 'b', 'framework', 'sklearn_1.3', 'runtime', 'python_3.8',"
        f" 'features', '{FEATURES}'::jsonb, 'target', '{TARGET}'::jsonb), ARRAY[%s::bytea])"
    )
    right = one(ring.db, "SELECT pg_get_functiondef('kwdbml._model_right(uuid, text, name)'::regprocedure)")
    run(ring.db, right.replace("kwdbml._model_right(", "kwdbml._model_right_itself("), SLOW_RIGHT.format(bob.name))
    run(holder, "SELECT pg_advisory_lock(9)")
    asking = bob.connect(autocommit=False)
    asked = meanwhile(lambda c: c.execute(ask.encode(), [MODEL]), asking)
    ring.wait(asking, asked)
    assert not asked.done()
    one(ann, grant, [bob.name])
    ring.model("n", 1)
    run(holder, "SELECT pg_advisory_unlock(9)")
    assert outcome(asked, asking) == (None if ready else "42501")
    assert one(ring.db, "SELECT count(*) FROM kwdbml.model_version") == (3 if ready else 2)
    asking.execute(ask.encode(), [MODEL])
    asking.commit()
    ring.whole()


def test_removed_between_the_end_of_a_job_and_the_next(ring: Ring) -> None:
    """What landed is the model's; the record of the job stays, without its version."""
    ring.model("n")
    held = ring.held(EVALUATE, "n")
    ring.claimer.land(held, metrics=[{"objective": "f1", "score": 0.7}])
    one(ring.ann.connection, "SELECT kwdbml.remove_model('n', 2)")
    ended = "SELECT status, model_version FROM kwdbml.show_job(%s)"
    assert rows(ring.ann.connection, ended, [str(held.job)]) == [("SUCCEEDED", 2)]
    with refused("42704", "version 2"):
        one(ring.ann.connection, EVALUATE, ["n"])
    with refused("55000"):
        ring.claimer.land(held)
    ring.whole()


@pytest.mark.parametrize("gone", ["version", "right", "pipeline"])
def test_what_goes_while_a_call_looks_at_its_data(
    ring: Ring, role: MakeRole, dsn: str, connect: Connect, gone: str
) -> None:
    """The version was there when the call looked, and is not when the job is inserted: said in our words."""
    ring.model("n")
    holder, ann = connect(dsn), ring.ann.connection
    bob = role("bob")
    run(ann, "GRANT SELECT ON shop TO PUBLIC", (
        "CREATE FUNCTION hold() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN"
        " PERFORM pg_advisory_lock(7); PERFORM pg_advisory_unlock(7); RETURN true; END$$"
    ))  # fmt: skip
    one(ann, "SELECT kwdbml.grant_privilege_on_model('n', %s, 'EVALUATE')", [bob.name])
    one(ann, "SELECT kwdbml.grant_privilege_on_training_pipeline('p', %s, 'TRAIN')", [bob.name])
    call = {
        "pipeline": "SELECT kwdbml.train_model('p', 'new', 'SELECT * FROM shop WHERE hold()', true, true)",
    }.get(gone, "SELECT kwdbml.evaluate_model('', 'n', 2, 'SELECT * FROM shop WHERE hold()', 'f1')")
    take = {
        "version": "SELECT kwdbml.remove_model('n', 2)",
        "right": f"SELECT kwdbml.revoke_privilege_on_model('n', '{bob.name}', 'ALL')",
        "pipeline": "SELECT kwdbml.remove_training_pipeline('p')",
    }[gone]
    asks = bob.connect(autocommit=False)
    for taken in (False, True):
        run(holder, "SELECT pg_advisory_lock(7)")
        asked = meanwhile(lambda c: one(c, call), asks)
        ring.wait(asks, asked)
        assert not asked.done()
        if taken:
            one(ann, take)
        run(holder, "SELECT pg_advisory_unlock(7)")
        if taken:
            error = asked.exception(timeout=DEADLINE)
            assert "meanwhile" in str(error)
            assert outcome(asked, asks) == "42704"
        else:
            assert asked.exception(timeout=DEADLINE) is None
            asks.rollback()
    assert rows(ring.db, "SELECT FROM kwdbml.job WHERE creator = %s", [bob.name]) == []
