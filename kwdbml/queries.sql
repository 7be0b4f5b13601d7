-- Named statements of the worker. Each calls one function of the extension: the worker has no other right.

-- name: claim
SELECT job_id, attempt, token, run_name, engine, status, takeover, phase, handle, host
FROM kwdbml.worker_claim(%(worker)s, %(engines)s, %(lease)s, %(host)s, %(queues)s)

-- name: heartbeat
SELECT token, status FROM kwdbml.worker_heartbeat(%(tokens)s, %(lease)s)

-- name: update
SELECT kwdbml.worker_update(%(job)s, %(token)s, %(phase)s, %(step)s, %(progress)s::pg_catalog.float4, %(handle)s)

-- name: log
SELECT kwdbml.worker_log(%(job)s, %(token)s, %(lines)s, %(cut_from)s, %(cut_to)s)

-- name: spec
SELECT kwdbml.worker_spec(%(job)s, %(token)s)

-- name: compared
SELECT kwdbml.worker_compared(%(job)s, %(token)s)

-- name: artefacts
SELECT kind, artefact, bytes, sha256, chunks FROM kwdbml.worker_artefacts(%(job)s, %(token)s)

-- name: chunk
SELECT kwdbml.worker_chunk(%(job)s, %(token)s, %(artefact)s, %(number)s)

-- name: put
SELECT kwdbml.worker_put(%(job)s, %(token)s, %(artefact)s, %(kind)s, %(number)s, %(chunk)s)

-- name: land
SELECT kwdbml.worker_land(%(job)s, %(token)s, %(outcome)s)

-- name: fail
SELECT kwdbml.worker_fail(%(job)s, %(token)s, %(error)s, %(retry)s)

-- name: end
SELECT kwdbml.worker_end(%(job)s, %(token)s)

-- name: release
SELECT kwdbml.worker_release(%(job)s, %(token)s)

-- name: cleanup
SELECT engine, run_name, handle FROM kwdbml.worker_cleanup(%(engines)s, %(host)s, %(bound)s)

-- name: cleaned
SELECT kwdbml.worker_cleaned(%(run)s)

-- name: terminate
SELECT pg_catalog.pg_terminate_backend(%(pid)s)

-- name: sweep
SELECT kwdbml.worker_sweep()

-- name: whoami
SELECT r.rolsuper AS superuser,
       pg_catalog.pg_has_role(current_user, pg_catalog.to_regrole('kwdbml_worker'), 'USAGE') AS is_worker,
       (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'kwdbml') AS version
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user

-- name: listen
LISTEN kwdbml_wake

-- name: stage
SELECT statement, path, columns::text, pg_catalog.pg_backend_pid() FROM kwdbml.worker_stage($1::pg_catalog.uuid, $2::pg_catalog.uuid)

-- name: trace
SELECT statement, path, suspects::text, pg_catalog.pg_backend_pid() FROM kwdbml.worker_trace($1::pg_catalog.uuid, $2::pg_catalog.uuid)

-- name: rehearse
SELECT kwdbml.worker_rehearse()

-- name: set_path
SELECT pg_catalog.set_config('search_path', $1, true)

-- name: result_open
SELECT table_schema, table_name, columns FROM kwdbml.worker_result_open(%(job)s, %(token)s)

-- name: lock_timeout
SET LOCAL lock_timeout = '5s'
