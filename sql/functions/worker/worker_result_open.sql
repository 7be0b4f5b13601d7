-- Contract: in the final transaction of a BATCH_PREDICT job: makes the table that the worker COPYs into, in our own
-- schema, because the worker has no right on anybody's. Whether the creator may have the result where it is to go, and
-- whether code of a user would run there, is checked now for an early answer and in _result_close for good.
CREATE FUNCTION kwdbml.worker_result_open(job uuid, held uuid, OUT table_schema text, OUT table_name text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    exists_already boolean;
    denied text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    columns := kwdbml._result_columns(j.data_columns, spec -> 'target');
    exists_already := kwdbml._check_result_table(j.settings ->> 'result_schema', j.settings ->> 'result_name', columns,
                                                 j.settings ->> 'action_if_exists', j.creator) IS NOT NULL;
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
    EXECUTE format('GRANT INSERT ON kwdbml.%I TO %I', table_name, session_user);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_result_open(uuid, uuid) IS 'for workers: makes the table that takes a job''s rows';

CREATE FUNCTION kwdbml._result_name(held uuid) RETURNS text LANGUAGE sql IMMUTABLE
RETURN '_result_' || pg_catalog.replace(held::text, '-', '');
COMMENT ON FUNCTION kwdbml._result_name(uuid) IS 'the name of the table that takes a job''s rows until it lands';

-- Contract: the rows go where they belong: the table moves to its schema and its owner when there is none of its name,
-- else they are inserted into the one there is, locked against everything that could make the INSERT run somebody's code.
CREATE FUNCTION kwdbml._result_close(j kwdbml.job, held uuid, target jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours text := kwdbml._result_name(held);
    home text := j.settings ->> 'result_schema';
    object text := j.settings ->> 'result_name';
    action text := j.settings ->> 'action_if_exists';
    columns jsonb := kwdbml._result_columns(j.data_columns, target);
    names text;
BEGIN
    -- From here on the schema keeps its name: otherwise another one could take it, with a table of the same name that runs
    -- code, after the check; no lock on a table forbids that.
    PERFORM FROM pg_namespace n WHERE n.nspname = home FOR KEY SHARE;
    IF kwdbml._check_result_table(home, object, columns, action, j.creator) IS NULL THEN
        IF (SELECT c.relpersistence FROM pg_class c WHERE c.oid = to_regclass(format('kwdbml.%I', ours))) <> 'p' THEN
            EXECUTE format('ALTER TABLE kwdbml.%I SET LOGGED', ours);  -- the table there was has vanished meanwhile
        END IF;
        EXECUTE format('REVOKE INSERT ON kwdbml.%I FROM %I', ours, session_user);
        EXECUTE format('ALTER TABLE kwdbml.%I SET SCHEMA %I', ours, home);
        EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', home, ours, object);
        EXECUTE format('ALTER TABLE %I.%I OWNER TO %I', home, object, j.creator);
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', home, object);
    -- now that nobody can change it: is it still what was checked?
    PERFORM kwdbml._check_result_table(home, object, columns, action, j.creator);
    IF action = 'replace' THEN
        EXECUTE format('DELETE FROM ONLY %I.%I', home, object);
    END IF;
    SELECT string_agg(format('%I', c ->> 'name'), ', ' ORDER BY n) INTO names
    FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n);
    EXECUTE format('INSERT INTO %I.%I (%s) SELECT %s FROM kwdbml.%I', home, object, names, names, ours);
    EXECUTE format('DROP TABLE kwdbml.%I', ours);
END
$$;
COMMENT ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) IS 'puts a job''s rows where they belong';
REVOKE ALL ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) FROM PUBLIC;
