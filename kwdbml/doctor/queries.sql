-- What kwdbml doctor asks the database, as the worker's role. None of it needs a right that everybody has not.

-- name: server
SELECT pg_catalog.current_setting('server_version') AS version,
       pg_catalog.current_setting('server_version_num')::pg_catalog.int4 / 10000 AS major,
       pg_catalog.current_database() AS database, current_user AS "user"

-- name: powers
-- What the role has beyond kwdbml_worker.
SELECT 'CREATEROLE' AS power FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolcreaterole
UNION ALL
SELECT 'CREATEDB' FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolcreatedb
UNION ALL
SELECT 'REPLICATION' FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolreplication
UNION ALL
SELECT 'BYPASSRLS' FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolbypassrls
UNION ALL
SELECT r.rolname::pg_catalog.text
FROM pg_catalog.pg_roles r
WHERE pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
  AND r.rolname <> current_user
  AND NOT pg_catalog.pg_has_role('kwdbml_worker', r.oid, 'MEMBER')
ORDER BY 1

-- name: notify
SELECT pg_catalog.pg_notify('kwdbml_wake', %(payload)s)

-- name: python
SELECT pg_catalog.count(*) AS algorithms FROM kwdbml.algorithms()
