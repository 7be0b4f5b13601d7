-- Contract: in the final transaction of a BATCH_PREDICT job: makes the table that the worker COPYs into, in our own
-- schema, because the worker has no right on anybody's. Whether the creator may have the result where it is to go, and
-- whether code of a user would run there, is checked now for an early answer and in _result_close for good.
CREATE FUNCTION kwdbml.worker_result_open(job uuid, held uuid, OUT table_schema text, OUT table_name text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    place text[];
    exists_already boolean;
    denied text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    columns := kwdbml._result_columns(j.data_columns, spec -> 'target');
    place := kwdbml._result_place(j.settings ->> 'result_table');
    exists_already := kwdbml._check_result_table(place[1], place[2], columns, j.settings ->> 'action_if_exists', j.creator) IS NOT NULL;
    SELECT c ->> 'type' INTO denied FROM jsonb_array_elements(j.data_columns) AS c
    WHERE NOT has_type_privilege(j.creator, kwdbml._base_type((c ->> 'oid')::oid), 'USAGE') LIMIT 1;
    IF denied IS NOT NULL THEN
        RAISE EXCEPTION 'permission denied for type %', denied USING ERRCODE = '42501', HINT = 'You need USAGE on it.';
    END IF;
    table_schema := 'kwdbml';
    table_name := kwdbml._result_name(held);
    EXECUTE format('CREATE %s TABLE kwdbml.%I (%s)', CASE WHEN exists_already THEN 'UNLOGGED' ELSE '' END, table_name,
                   (SELECT string_agg(format('%I %s', c ->> 'name', c ->> 'type'), ', ' ORDER BY n)
                    FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n)));
    -- The text above names types, and a name can have gone to another type since: what was made must be what was meant,
    -- or the worker's COPY would run a domain's CHECK.
    PERFORM kwdbml._check_made(to_regclass(format('kwdbml.%I', table_name)), columns);
    EXECUTE format('GRANT INSERT ON kwdbml.%I TO %I', table_name, session_user);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_result_open(uuid, uuid) IS 'for workers: makes the table that takes a job''s rows';

CREATE FUNCTION kwdbml._result_name(held uuid) RETURNS text LANGUAGE sql IMMUTABLE
RETURN '_result_' || pg_catalog.replace(held::text, '-', '');
COMMENT ON FUNCTION kwdbml._result_name(uuid) IS 'the name of the table that takes a job''s rows until it lands';

-- Contract: 55P03, which is tried again, unless a table that we have made has these columns, by the OIDs of their types.
CREATE FUNCTION kwdbml._check_made(made oid, columns jsonb) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF made IS NULL OR kwdbml._shape_difference(made, columns) IS NOT NULL OR kwdbml._runs_code_on_insert(made) IS NOT NULL THEN
        RAISE EXCEPTION 'a type of the result changed its name meanwhile' USING ERRCODE = '55P03', HINT = 'Try again.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_made(oid, jsonb) IS 'whether a table that we have made is the one that was meant';

-- Contract: the schema's OID, its name held until the transaction ends: otherwise another schema could take it, with a
-- table of the same name that runs code, after the check; no lock on a table forbids that. By OID, because a wait for
-- somebody's rename ends with a row that a search by name would silently not lock.
CREATE FUNCTION kwdbml._hold_schema(wanted text) RETURNS oid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    home oid := to_regnamespace(quote_ident(wanted));
    found_name text;
BEGIN
    IF home IS NOT NULL THEN
        SELECT n.nspname INTO found_name FROM pg_namespace n WHERE n.oid = home FOR KEY SHARE;
        IF found_name IS DISTINCT FROM wanted THEN
            RAISE EXCEPTION 'schema "%" changed its name meanwhile', wanted USING ERRCODE = '55P03', HINT = 'Try again.';
        END IF;
    END IF;
    RETURN home;
END
$$;
COMMENT ON FUNCTION kwdbml._hold_schema(text) IS 'keeps a schema under its name until the transaction ends';
REVOKE ALL ON FUNCTION kwdbml._hold_schema(text) FROM PUBLIC;

-- Contract: the rows go where they belong: the table moves to its schema and its owner when there is none of its name,
-- else they are inserted into the one there is, locked against everything that could make the INSERT run somebody's code.
-- After the check, tables are meant by OID: a name is only what somebody calls it now.
CREATE FUNCTION kwdbml._result_close(j kwdbml.job, held uuid, target jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours oid := to_regclass(format('kwdbml.%I', kwdbml._result_name(held)));
    place text[] := kwdbml._result_place(j.settings ->> 'result_table');
    home text := place[1];
    object text := place[2];
    action text := j.settings ->> 'action_if_exists';
    columns jsonb := kwdbml._result_columns(j.data_columns, target);
    theirs oid;
    names text;
BEGIN
    PERFORM kwdbml._check_made(ours, columns);
    PERFORM kwdbml._hold_schema(home);
    theirs := kwdbml._check_result_table(home, object, columns, action, j.creator);
    IF theirs IS NULL THEN
        IF (SELECT c.relpersistence FROM pg_class c WHERE c.oid = ours) <> 'p' THEN
            EXECUTE format('ALTER TABLE %s SET LOGGED', ours::regclass);  -- the table there was has vanished meanwhile
        END IF;
        EXECUTE format('REVOKE INSERT ON %s FROM %I', ours::regclass, session_user);
        EXECUTE format('ALTER TABLE %s SET SCHEMA %I', ours::regclass, home);
        EXECUTE format('ALTER TABLE %s RENAME TO %I', ours::regclass, object);
        EXECUTE format('ALTER TABLE %s OWNER TO %I', ours::regclass, j.creator);
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', theirs::regclass);
    -- now that nobody can change it: is it still what was checked, and is it what we have locked?
    IF kwdbml._check_result_table(home, object, columns, action, j.creator) IS DISTINCT FROM theirs OR NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = theirs
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
           AND l.mode = 'ShareRowExclusiveLock' AND l.granted) THEN
        RAISE EXCEPTION 'result table %.% changed its name meanwhile', home, object USING ERRCODE = '55P03', HINT = 'Try again.';
    END IF;
    IF action = 'replace' THEN
        EXECUTE format('DELETE FROM ONLY %s', theirs::regclass);
    END IF;
    SELECT string_agg(format('%I', c ->> 'name'), ', ' ORDER BY n) INTO names
    FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n);
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s', theirs::regclass, names, names, ours::regclass);
    EXECUTE format('DROP TABLE %s', ours::regclass);
END
$$;
COMMENT ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) IS 'puts a job''s rows where they belong';
REVOKE ALL ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) FROM PUBLIC;
