-- How the data of a job is read: with the creator's rights, in a transaction that always ends in ROLLBACK.
-- The story, and what was tried against it, is in docs/security.md.

-- Contract: what must be read for a job: [{column, staged, expression, source, role}], role feature, target or carried;
-- expression has %s where the source column's name goes. 42703 and 22023 when the data cannot serve.
CREATE FUNCTION kwdbml._stage_columns(j kwdbml.job, features jsonb, target jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb := '[]';
    seen jsonb := '{}';  -- expression → column: what two need is read once
    expression text;
    w record;
    how record;
BEGIN
    FOR w IN
        SELECT f.name, f.type AS wanted, 'feature' AS role FROM jsonb_to_recordset(features) AS f(name text, type text)
        UNION ALL
        SELECT t.name, t.type, 'target' FROM jsonb_to_recordset(target) AS t(name text, type text) WHERE j.type <> 'BATCH_PREDICT'
        UNION ALL
        SELECT c.name, NULL, 'carried' FROM jsonb_to_recordset(j.data_columns) AS c(name text) WHERE j.type = 'BATCH_PREDICT'
    LOOP
        SELECT h.staged, h.expression INTO how
        FROM jsonb_to_recordset(j.data_columns) AS c(name text, oid oid),
             LATERAL (SELECT * FROM kwdbml._feature_cast(c.oid, w.wanted) WHERE w.role <> 'carried'
                      UNION ALL SELECT * FROM kwdbml._carried(c.oid) WHERE w.role = 'carried') AS h
        WHERE c.name = w.name;
        IF how.staged IS NULL THEN
            RAISE EXCEPTION 'column "%" of the data cannot be read as %', w.name, coalesce(w.wanted, 'part of the result')
                USING ERRCODE = '22023', HINT = 'Cast it in the query, or leave it out.';
        END IF;
        expression := replace(how.expression, '%s', format('q.%I', w.name));
        IF NOT seen ? expression THEN
            seen := seen || jsonb_build_object(expression, 'c' || (SELECT count(*) FROM jsonb_object_keys(seen)));
        END IF;
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', w.name, 'role', w.role, 'wanted', w.wanted, 'staged', how.staged,
            'expression', expression, 'column', seen ->> expression));
    END LOOP;
    IF (SELECT count(*) FROM jsonb_object_keys(seen)) > 1600 THEN
        RAISE EXCEPTION 'the job needs more than 1,600 columns'
            USING ERRCODE = '54000', HINT = 'Select fewer columns, or cast them to double precision in the query.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._stage_columns(kwdbml.job, jsonb, jsonb) IS 'which columns a job reads, and how';

-- Contract: true when reading these columns [{name, oid}] of the relation runs no code of a user, whoever reads: an
-- ordinary table, alone, of built-in types, which are those that the expressions were made for (the request may lie),
-- without anything that the planner would evaluate (expressions of indexes or statistics). Holds for as long as the
-- caller has the table locked against DDL.
CREATE FUNCTION kwdbml._reads_plainly(rel oid, claimed jsonb) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.relkind = 'r' AND c.relpersistence <> 't' AND NOT c.relrowsecurity AND NOT c.relispartition
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid)
        AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
        AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
        AND NOT EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL)
        AND NOT EXISTS (
            SELECT FROM jsonb_to_recordset(claimed) AS w(name text, oid oid)
            WHERE NOT EXISTS (
                SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
                  AND a.attname::text = w.name AND a.atttypid = w.oid
                  AND t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace))
    FROM pg_class c WHERE c.oid = rel;
END;
COMMENT ON FUNCTION kwdbml._reads_plainly(oid, jsonb) IS 'whether reading a table can run code of a user';

-- Contract: the oid of the job's relation, locked so that it stays plain, when it may be read the fast way; else NULL.
CREATE FUNCTION kwdbml._lock_plain(j kwdbml.job, claimed jsonb) RETURNS oid LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel oid := to_regclass(j.data_relation);
BEGIN
    IF rel IS NULL OR NOT kwdbml._reads_plainly(rel, claimed)
       OR NOT (SELECT has_schema_privilege(j.creator, c.relnamespace, 'USAGE') FROM pg_class c WHERE c.oid = rel) THEN
        RETURN NULL;
    END IF;
    -- against ALTER SCHEMA RENAME, by which another table could take the name; who has no SELECT locks nothing
    IF NOT has_table_privilege(j.creator, rel, 'SELECT') THEN
        RETURN NULL;
    END IF;
    PERFORM FROM pg_namespace n WHERE n.oid = (SELECT c.relnamespace FROM pg_class c WHERE c.oid = rel) FOR KEY SHARE NOWAIT;
    -- against CREATE INDEX and CREATE STATISTICS; whoever is in our way just sends us the other way
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', rel::regclass);
    RETURN CASE WHEN to_regclass(j.data_relation) = rel::regclass AND kwdbml._reads_plainly(rel, claimed) THEN rel END;
EXCEPTION WHEN lock_not_available OR undefined_table OR invalid_name OR syntax_error THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kwdbml._lock_plain(kwdbml.job, jsonb) IS 'locks a table that can be read without running code of a user';
REVOKE ALL ON FUNCTION kwdbml._lock_plain(kwdbml.job, jsonb) FROM PUBLIC;

-- Contract: from here on the open transaction is READ ONLY and reads as the session did in which the job was submitted,
-- but for the search_path, which is set outside: here it is pinned.
CREATE FUNCTION kwdbml._reads_as(j kwdbml.job) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('TimeZone', j.session ->> 'TimeZone', true), set_config('DateStyle', j.session ->> 'DateStyle', true),
            set_config('IntervalStyle', j.session ->> 'IntervalStyle', true),
            -- or a seeded split is not repeatable
            set_config('synchronize_seqscans', 'off', true),
            set_config('transaction_read_only', 'on', true);
END
$$;
COMMENT ON FUNCTION kwdbml._reads_as(kwdbml.job) IS 'makes the transaction read as a job''s session would';
REVOKE ALL ON FUNCTION kwdbml._reads_as(kwdbml.job) FROM PUBLIC;

-- Contract: prepares the reading in the open transaction, which from here on is READ ONLY and must be rolled back.
-- (statement to COPY, search_path to set before it, columns). The text of the query is compiled only inside a function
-- that belongs to the creator: SET ROLE would be no boundary, since a function in the query can undo it. Where no code of
-- a user can run, a view of the creator's does the same at twice the speed. Both vanish with the ROLLBACK.
CREATE FUNCTION kwdbml.worker_stage(job uuid, held uuid, OUT statement text, OUT path text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    handle text := '_stage_' || replace(gen_random_uuid()::text, '-', '');  -- not the token: the query can see it
    plain oid;
    expressions text;
    results text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    columns := kwdbml._stage_columns(j, spec -> 'features', spec -> 'target');
    SELECT string_agg(format('%s AS %I', c.expression, c."column"), ', ' ORDER BY c.n),
           string_agg(format('%I pg_catalog.%I', c."column", c.staged), ', ' ORDER BY c.n)
    INTO expressions, results
    FROM (SELECT DISTINCT ON (x ->> 'column') x ->> 'column', x ->> 'expression', x ->> 'staged', substring(x ->> 'column' FROM 2)::int
          FROM jsonb_array_elements(columns) AS x) AS c("column", expression, staged, n);
    plain := kwdbml._lock_plain(j, (SELECT jsonb_agg(c) FROM jsonb_array_elements(j.data_columns) AS c
                                    WHERE c ->> 'name' IN (SELECT x ->> 'name' FROM jsonb_array_elements(columns) AS x)));
    IF plain IS NOT NULL THEN
        EXECUTE format('CREATE VIEW kwdbml.%I AS SELECT %s FROM ONLY %s AS q', handle, expressions, plain::regclass);
        EXECUTE format('ALTER VIEW kwdbml.%I OWNER TO %I', handle, j.creator);
        EXECUTE format('GRANT SELECT ON kwdbml.%I TO %I', handle, session_user);
        statement := format('SELECT * FROM kwdbml.%I', handle);
    ELSE
        EXECUTE format('CREATE FUNCTION kwdbml.%I() RETURNS TABLE (%s) LANGUAGE sql VOLATILE SECURITY DEFINER AS %L', handle, results,
                       format(E'SELECT %s FROM (\n%s\n) AS q', expressions, j.data_query));
        EXECUTE format('REVOKE ALL ON FUNCTION kwdbml.%I() FROM PUBLIC', handle);
        EXECUTE format('GRANT EXECUTE ON FUNCTION kwdbml.%I() TO %I', handle, session_user);
        EXECUTE format('ALTER FUNCTION kwdbml.%I() OWNER TO %I', handle, j.creator);
        -- a target list streams, FROM would spool everything to disk first; one column is no composite
        statement := CASE WHEN position(', ' IN results) > 0
            THEN format('SELECT (r).* FROM (SELECT kwdbml.%I() AS r OFFSET 0) AS s', handle)
            ELSE format('SELECT r AS c0 FROM (SELECT kwdbml.%I() AS r OFFSET 0) AS s', handle) END;
    END IF;
    PERFORM kwdbml._reads_as(j);
    path := j.session ->> 'search_path';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_stage(uuid, uuid) IS 'for workers: prepares the reading of a job''s data as its creator';

-- Contract: nothing but a warm backend: what worker_stage calls is compiled and its catalogue rows are cached.
CREATE FUNCTION kwdbml.worker_rehearse() RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kwdbml._fence(NULL, NULL);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    PERFORM kwdbml._check_creator(current_user, (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)),
            kwdbml._setting('default_ttl'), kwdbml._model_right(NULL, 'EVALUATE', current_user),
            kwdbml._pipeline_right(NULL, 'TRAIN', current_user), kwdbml._lock_plain(NULL, '[]'),
            kwdbml._stage_columns(NULL, '[]', '[]'), kwdbml._reads_plainly('kwdbml.job'::regclass, '[]');
    PERFORM kwdbml._feature_cast('int8'::regtype, 'INT'), kwdbml._carried('numeric'::regtype),
            date_part('epoch', now()), format('%I', 'a'), to_regclass('kwdbml.job'), format_type('int8'::regtype, -1);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_rehearse() IS 'for workers: warms up a backend that will stage';
