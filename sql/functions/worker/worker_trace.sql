-- requires: worker_stage

-- Contract: when the reading that worker_stage prepared has failed with a data exception: prepares another, which looks
-- for the column whose cast fails, under the same rules (read only, rolled back, the text of the query compiled only
-- inside a function that belongs to the creator). The statement answers {column, wanted, said} as text, or NULL when
-- every cast works; it raises what the query itself raises. suspects are the columns that it tries; there is no
-- statement without any. Row by row, since no value can be tried without catching what it raises: slower, for once.
CREATE FUNCTION kwdbml.worker_trace(job uuid, held uuid, OUT statement text, OUT path text, OUT suspects jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    handle text := '_trace_' || replace(gen_random_uuid()::text, '-', '');
    casts text;
    tries text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    -- casts from other types than these cannot fail
    SELECT jsonb_agg(w.name), string_agg(w.expression, ', '), string_agg(format(
        E'BEGIN PERFORM %s;\nEXCEPTION WHEN data_exception THEN RETURN pg_catalog.jsonb_build_object('
        '''column'', %L, ''wanted'', %L, ''said'', SQLERRM)::text;\nEND;\n', w.expression, w.name, w.wanted), '')
    INTO suspects, casts, tries
    FROM jsonb_to_recordset(kwdbml._stage_columns(j, spec -> 'features', spec -> 'target'))
             AS w(name text, role text, wanted text, expression text)
        JOIN jsonb_to_recordset(j.data_columns) AS c(name text, oid oid) ON c.name = w.name
    WHERE w.role <> 'carried' AND w.wanted <> 'STRING' AND kwdbml._base_type(c.oid)
        = ANY (ARRAY['text', 'varchar', 'bpchar', 'numeric', 'float4', 'float8']::regtype[]::oid[]);
    IF suspects IS NOT NULL THEN
        -- the query's own names go before the function's
        EXECUTE format('CREATE FUNCTION kwdbml.%I() RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS %L', handle, format(
            E'#variable_conflict use_column\nDECLARE q record;\nBEGIN\nFOR q IN SELECT * FROM (\n%s\n) AS q LOOP\n'
            'BEGIN PERFORM %s;\nEXCEPTION WHEN data_exception THEN\n%sEND;\nEND LOOP;\nRETURN NULL;\nEND',
            j.data_query, casts, tries));
        EXECUTE format('REVOKE ALL ON FUNCTION kwdbml.%I() FROM PUBLIC', handle);
        EXECUTE format('GRANT EXECUTE ON FUNCTION kwdbml.%I() TO %I', handle, session_user);
        EXECUTE format('ALTER FUNCTION kwdbml.%I() OWNER TO %I', handle, j.creator);
        statement := format('SELECT kwdbml.%I()', handle);
    END IF;
    PERFORM kwdbml._reads_as(j), set_config('statement_timeout', '60s', true);
    path := j.session ->> 'search_path';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_trace(uuid, uuid) IS 'for workers: looks for the column of a job''s data that cannot be cast';
