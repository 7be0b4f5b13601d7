-- Contract of _check_result_table: NULL when the table must be made, its oid when it can be written; else the error.
-- Catalogue only, so that it holds for the caller at the call and for the creator, in the worker's transaction, at the end.
CREATE FUNCTION kwdbml._check_result_table(table_schema text, table_name text, columns jsonb, action text, who name)
RETURNS oid LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text := format('%I.%I', table_schema, table_name);
    rel pg_class;
    problem text;
    home oid := to_regnamespace(quote_ident(table_schema));
BEGIN
    IF table_schema ~ '^pg_temp(_|$)' THEN
        RAISE EXCEPTION 'result table % would be a temporary table, which only its session sees', shown
            USING ERRCODE = '22023', HINT = 'A worker writes the rows later: name a table in an ordinary schema, such as public.t.';
    END IF;
    IF home IS NULL THEN
        RAISE EXCEPTION 'schema "%" does not exist', table_schema USING ERRCODE = '3F000', HINT = 'Create it, or name another one.';
    END IF;
    IF NOT has_schema_privilege(who, home, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for schema %', table_schema USING ERRCODE = '42501', HINT = 'You need USAGE on it.';
    END IF;
    SELECT * INTO rel FROM pg_class c WHERE c.relnamespace = home AND c.relname = table_name;
    IF NOT FOUND THEN
        IF NOT has_schema_privilege(who, home, 'CREATE') THEN
            RAISE EXCEPTION 'permission denied to create % in schema %', shown, table_schema
                USING ERRCODE = '42501', HINT = 'You need CREATE on the schema, or an existing table that you may write.';
        END IF;
        RETURN NULL;
    END IF;
    IF action = 'error' THEN
        RAISE EXCEPTION 'result table % already exists', shown
            USING ERRCODE = '42P07', HINT = 'Use action_if_exists replace or append, or name another table.';
    END IF;
    IF NOT has_table_privilege(who, rel.oid, 'INSERT')
       OR action = 'replace' AND NOT has_table_privilege(who, rel.oid, 'DELETE') THEN
        RAISE EXCEPTION 'permission denied for table %', shown
            USING ERRCODE = '42501', HINT = 'You need INSERT on it, and DELETE to replace its rows.';
    END IF;
    problem := kwdbml._runs_code_on_insert(rel.oid);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot write to %: it %', shown, problem
            USING ERRCODE = '42809', HINT = 'Predict into a new table, then INSERT … SELECT from it as yourself.';
    END IF;
    problem := kwdbml._shape_difference(rel.oid, columns);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'result table % has another shape: %', shown, problem
            USING ERRCODE = '42804', HINT = 'Predict into a new table, then INSERT … SELECT from it as yourself.';
    END IF;
    RETURN rel.oid;
END
$$;
COMMENT ON FUNCTION kwdbml._check_result_table(text, text, jsonb, text, name) IS
    'whether a role may have its predictions written there without any code of a user running';

-- Contract: (schema, name) of a result table as a job's row names it, both quoted where needed; 22023 for anything else.
CREATE FUNCTION kwdbml._result_place(result_table text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[];
BEGIN
    BEGIN
        parts := parse_ident(result_table);
    EXCEPTION WHEN invalid_parameter_value THEN
        NULL;  -- it would name the value, but no cure
    END;
    IF array_length(parts, 1) = 2 THEN
        RETURN parts;
    END IF;
    RAISE EXCEPTION 'invalid result table "%"', coalesce(result_table, 'NULL') USING ERRCODE = '22023', HINT = 'Use kwdbml.batch_predict.';
END
$$;
COMMENT ON FUNCTION kwdbml._result_place(text) IS 'schema and name of the result table of a job';

-- Contract: why a plain INSERT into the table would run code that somebody wrote, or be more than an INSERT; NULL: it would not.
CREATE FUNCTION kwdbml._runs_code_on_insert(rel oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        WHEN c.relkind <> 'r' THEN 'is not an ordinary table'
        WHEN c.relpersistence = 't' THEN 'is a temporary table, which only its session sees'
        WHEN c.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid)
            THEN 'is part of an inheritance tree'
        WHEN c.relrowsecurity THEN 'has row-level security'
        WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid) THEN 'has triggers or foreign keys'
        WHEN EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid) THEN 'has rules'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'u', 'n'))
            THEN 'has CHECK or exclusion constraints'
        WHEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
            THEN 'has expression or partial indexes'
        WHEN EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL)
            THEN 'has statistics on expressions'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND (a.attgenerated <> '' OR a.attidentity <> '')) THEN 'has generated or identity columns'
        WHEN EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND (t.typtype = 'd' OR (kwdbml._carried(a.atttypid)).staged IS NULL))
            THEN 'has columns of domain or composite types'
        END
    FROM pg_class c WHERE c.oid = rel;
END;
COMMENT ON FUNCTION kwdbml._runs_code_on_insert(oid) IS 'why an INSERT into a table would run somebody''s code; NULL when it would not';

-- Contract: the first difference between a table's columns and the wanted ones (by name, any order), or NULL. Types are
-- compared by OID: a type's name can be given to another one at any moment.
CREATE FUNCTION kwdbml._shape_difference(rel oid, columns jsonb) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        WHEN have.name IS NULL THEN format('it lacks column %I %s', want.name, want.type)
        WHEN want.name IS NULL THEN format('it has a further column %I', have.name)
        ELSE format('column %I is %s, not %s', have.name, have.type, want.type) END
    FROM (SELECT a.attname::text AS name, a.atttypid AS oid, a.atttypmod AS typmod, format_type(a.atttypid, a.atttypmod) AS type
          FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped) have
    FULL JOIN jsonb_to_recordset(columns) AS want(name text, type text, oid oid, typmod integer) ON want.name = have.name
    WHERE (have.oid, have.typmod) IS DISTINCT FROM (want.oid, want.typmod)
    ORDER BY 1 LIMIT 1;
END;
COMMENT ON FUNCTION kwdbml._shape_difference(oid, jsonb) IS 'how a table differs from the wanted columns';
