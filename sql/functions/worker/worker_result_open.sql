-- Contract: in the final transaction of a BATCH_PREDICT job: makes or locks the result table, checks again that the
-- creator may and that no code of a user would run, and lets the worker INSERT until worker_land takes that back.
CREATE FUNCTION kwdbml.worker_result_open(job uuid, held uuid, OUT table_schema text, OUT table_name text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    rel oid;
    action text := spec #>> '{settings,action_if_exists}';
    denied text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    table_schema := spec #>> '{settings,result_schema}';
    table_name := spec #>> '{settings,result_name}';
    columns := kwdbml._result_columns(j.data_columns, spec -> 'target');
    rel := kwdbml._check_result_table(table_schema, table_name, columns, action, j.creator);
    IF rel IS NULL THEN
        SELECT c ->> 'type' INTO denied FROM jsonb_array_elements(j.data_columns) AS c
        WHERE NOT has_type_privilege(j.creator, kwdbml._base_type((c ->> 'oid')::oid), 'USAGE') LIMIT 1;
        IF denied IS NOT NULL THEN
            RAISE EXCEPTION 'permission denied for type %', denied USING ERRCODE = '42501', HINT = 'You need USAGE on it.';
        END IF;
        EXECUTE format('CREATE TABLE %I.%I (%s)', table_schema, table_name,
                       (SELECT string_agg(format('%I %s', c ->> 'name', c ->> 'type'), ', ' ORDER BY n)
                        FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n)));
    ELSE
        EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', table_schema, table_name);
        -- now that nobody can change it: is it still what was checked?
        PERFORM kwdbml._check_result_table(table_schema, table_name, columns, action, j.creator);
        IF action = 'replace' THEN
            EXECUTE format('DELETE FROM ONLY %I.%I', table_schema, table_name);
        END IF;
    END IF;
    EXECUTE format('GRANT INSERT ON %I.%I TO %I', table_schema, table_name, session_user);
    UPDATE kwdbml.attempt t
    SET result_table = jsonb_build_object('schema', table_schema, 'name', table_name, 'new', rel IS NULL)
    WHERE t.job_id = job AND t.number = a.number;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_result_open(uuid, uuid) IS 'for workers: opens the result table of a job';

-- Contract: the worker's INSERT right ends, a new table becomes the creator's.
CREATE FUNCTION kwdbml._result_close(j kwdbml.job, opened jsonb) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text := format('%I.%I', opened ->> 'schema', opened ->> 'name');
BEGIN
    IF opened IS NULL THEN
        RAISE EXCEPTION 'the result table of job % was not opened', j.id USING ERRCODE = '55000';
    END IF;
    EXECUTE format('REVOKE INSERT ON %s FROM %I', shown, session_user);
    IF (opened ->> 'new')::boolean THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %I', shown, j.creator);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._result_close(kwdbml.job, jsonb) IS 'gives the result table to whom it belongs';
REVOKE ALL ON FUNCTION kwdbml._result_close(kwdbml.job, jsonb) FROM PUBLIC;
