-- What a column of a data set can be to a model. One place, asked at the call (as the caller) and again by the worker.

-- PL/pgSQL, because it is called per column, and keeps its plans: an SQL function that cannot be inlined is read and
-- planned anew at every call of the function around it.

-- Contract: the type under all domains; NULL for no type.
CREATE FUNCTION kwdbml._base_type(type oid) RETURNS oid LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer oid := $1;
    kind "char";
    under oid;
BEGIN
    LOOP
        SELECT t.typtype, t.typbasetype INTO kind, under FROM pg_type t WHERE t.oid = answer;
        IF NOT FOUND OR kind <> 'd' THEN
            RETURN CASE WHEN kind IS NOT NULL THEN answer END;
        END IF;
        answer := under;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml._base_type(oid) IS 'the type under all domains';

-- Contract: STRING, INT or FLOAT for a column of this type, NULL where it cannot be a feature.
CREATE FUNCTION kwdbml._feature_type(type oid) RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
BEGIN
    RETURN CASE
        WHEN b = ANY (ARRAY['bool', 'int2', 'int4', 'int8']::regtype[]::oid[]) THEN 'INT'
        WHEN b = ANY (ARRAY['numeric', 'float4', 'float8', 'date', 'timestamp', 'timestamptz', 'interval']::regtype[]::oid[])
            THEN 'FLOAT'
        WHEN b = ANY (ARRAY['text', 'varchar', 'bpchar', 'name', 'uuid']::regtype[]::oid[])
            OR (SELECT t.typtype = 'e' FROM pg_type t WHERE t.oid = b) THEN 'STRING'
        END;
END
$$;
COMMENT ON FUNCTION kwdbml._feature_type(oid) IS 'the feature type that a column type becomes; NULL when none';

-- Contract: (staged type, expression over %s) that turns a column into a feature of the wanted type; NULL when it
-- cannot be. Staged types are base types of PostgreSQL only: no code of a user runs where the worker names them. What
-- Arrow carries natively stays as it is, and the step converts it.
CREATE FUNCTION kwdbml._feature_cast(type oid, wanted text, OUT staged text, OUT expression text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
    base text := (SELECT t.typname FROM pg_type t WHERE t.oid = b);
    own text := kwdbml._feature_type(b);
    is_text boolean := b = ANY (ARRAY['text', 'varchar', 'bpchar']::regtype[]::oid[]);
BEGIN
    staged := CASE wanted
        WHEN 'STRING' THEN CASE WHEN own IS NOT NULL THEN 'text' END
        WHEN 'BOOL' THEN CASE WHEN own = 'INT' THEN base WHEN is_text THEN 'bool' END
        WHEN 'INT' THEN CASE WHEN own = 'INT' THEN base
            WHEN is_text OR b = ANY (ARRAY['numeric', 'float4', 'float8']::regtype[]::oid[]) THEN 'int8' END
        WHEN 'FLOAT' THEN CASE WHEN own = 'INT' OR base IN ('float4', 'float8') THEN base
            WHEN is_text OR own = 'FLOAT' THEN 'float8' END
        END;
    expression := CASE
        WHEN b = 'interval'::regtype AND staged = 'float8' THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.interval)'
        WHEN b = 'timestamptz'::regtype AND staged = 'float8' THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.timestamptz)'
        WHEN b = ANY (ARRAY['date', 'timestamp']::regtype[]::oid[]) AND staged = 'float8'
            THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.timestamp)'
        ELSE '%s::pg_catalog.' || staged
        END;
END
$$;
COMMENT ON FUNCTION kwdbml._feature_cast(oid, text) IS 'how a column becomes a feature: staged type and expression';

-- Contract: (staged type, expression over %s) that carries a column's exact value to the worker and back; NULL where
-- writing it back would run code of a user (composites, domains inside arrays, ranges made by users). What Arrow has no
-- exact type for travels as the bytes that COPY BINARY would carry.
CREATE FUNCTION kwdbml._carried(type oid, OUT staged text, OUT expression text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
    native boolean := b = ANY (ARRAY['bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'text', 'bytea']::regtype[]::oid[]);
    ok boolean;
    sender text;
BEGIN
    IF native OR b = 'varchar'::regtype THEN
        staged := CASE WHEN native THEN (SELECT t.typname FROM pg_type t WHERE t.oid = b) ELSE 'text' END;
        expression := '%s::pg_catalog.' || quote_ident(staged);
        RETURN;
    END IF;
    SELECT (t.typtype IN ('b', 'e') OR t.typtype IN ('r', 'm') AND t.typnamespace = 'pg_catalog'::regnamespace)
           AND t.typsend <> 0
           AND (t.typelem = 0 OR t.typlen <> -1 OR e.typtype IN ('b', 'e')
                OR e.typtype IN ('r', 'm') AND e.typnamespace = 'pg_catalog'::regnamespace),
           (SELECT format('%I.%I', n.nspname, f.proname) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
            WHERE f.oid = t.typsend)
    INTO ok, sender
    FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
    WHERE t.oid = b;
    IF ok THEN
        staged := 'bytea';
        expression := sender || '(%s)';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._carried(oid) IS 'how a column of the data set travels to the result table unchanged';

-- Contract: the columns of a result table [{name, type, oid, typmod}], where oid and typmod decide and type is for people: those of the data set with their own types, then one per
-- target, named as the target, or prediction, or prediction_<target>, whichever is free first.
CREATE FUNCTION kwdbml._result_columns(data_columns jsonb, target jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb := '[]';
    names text[] := '{}';
    c jsonb;
    wanted text;
    made text;
    n integer;
BEGIN
    FOR c IN SELECT * FROM jsonb_array_elements(data_columns) LOOP
        names := names || (c ->> 'name');
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', c ->> 'name',
            'oid', kwdbml._base_type((c ->> 'oid')::oid)::bigint,
            'typmod', kwdbml._typmod((c ->> 'oid')::oid, (c ->> 'typmod')::int),
            'type', format_type(kwdbml._base_type((c ->> 'oid')::oid), kwdbml._typmod((c ->> 'oid')::oid, (c ->> 'typmod')::int))));
    END LOOP;
    FOR c IN SELECT * FROM jsonb_array_elements(target) LOOP
        wanted := c ->> 'name';
        IF wanted = ANY (names) THEN
            wanted := CASE WHEN jsonb_array_length(target) = 1 THEN 'prediction' ELSE left('prediction_' || wanted, 63) END;
        END IF;
        IF wanted = ANY (names) THEN
            wanted := left('prediction_' || (c ->> 'name'), 63);
        END IF;
        n := 1;
        WHILE wanted = ANY (names) LOOP
            n := n + 1;
            wanted := left('prediction_' || (c ->> 'name'), 58) || '_' || n;
        END LOOP;
        names := names || wanted;
        made := CASE c ->> 'type' WHEN 'FLOAT' THEN 'double precision' WHEN 'INT' THEN 'bigint' WHEN 'BOOL' THEN 'boolean' ELSE 'text' END;
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', wanted, 'type', made, 'oid', made::regtype::oid::bigint, 'typmod', -1));
    END LOOP;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._result_columns(jsonb, jsonb) IS 'the columns of the table that batch_predict writes';

-- Contract: the modifier of a column of a domain type is the domain's.
CREATE FUNCTION kwdbml._typmod(type oid, typmod integer) RETURNS integer LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at oid := $1;
    answer integer := $2;
    t record;
BEGIN
    LOOP
        SELECT p.typtype, p.typbasetype, p.typtypmod INTO t FROM pg_type p WHERE p.oid = at;
        IF NOT FOUND OR t.typtype <> 'd' THEN
            RETURN CASE WHEN FOUND THEN answer END;
        END IF;
        at := t.typbasetype;
        answer := t.typtypmod;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml._typmod(oid, integer) IS 'the type modifier under all domains';
