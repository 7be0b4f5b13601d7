-- requires: names

CREATE FUNCTION kwdbml._no_filter(wanted text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN wanted IS NULL OR '*' = ANY (wanted);
COMMENT ON FUNCTION kwdbml._no_filter(text[]) IS 'whether a list of types or statuses filters nothing';

-- Contract: the words of a list given as text, '{TRAIN, EVALUATE}'; 22023 when it is none.
CREATE FUNCTION kwdbml._word_list(list text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN list::text[];
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION 'invalid list "%"', pg_catalog.left(list, 200)
        USING ERRCODE = '22023', HINT = 'A list is an array of text: ARRAY[''TRAIN'', ''EVALUATE''] or ''{TRAIN, EVALUATE}''.';
END
$$;
COMMENT ON FUNCTION kwdbml._word_list(text) IS 'a list of job types or statuses given as text';

-- Contract: the values in upper case; 22023 that lists the valid ones.
CREATE FUNCTION kwdbml._valid_words(what text, wanted text[], valid text[]) RETURNS text[] LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    word text;
BEGIN
    FOREACH word IN ARRAY coalesce(wanted, '{}') LOOP
        IF word IS NULL OR upper(btrim(word)) <> ALL (array_append(valid, '*')) THEN
            RAISE EXCEPTION 'unknown job % "%"', what, coalesce(word, 'NULL')
                USING ERRCODE = '22023', HINT = 'Valid: ' || array_to_string(valid, ', ') || ', or * for all.';
        END IF;
    END LOOP;
    RETURN (SELECT array_agg(upper(btrim(w))) FROM unnest(wanted) AS w);
END
$$;
COMMENT ON FUNCTION kwdbml._valid_words(text, text[], text[]) IS 'checks a list of job types or statuses';

CREATE FUNCTION kwdbml._job_types(wanted text[]) RETURNS kwdbml.job_type[] LANGUAGE sql STABLE
RETURN kwdbml._valid_words('type', wanted, pg_catalog.enum_range(NULL::kwdbml.job_type)::text[])::kwdbml.job_type[];
COMMENT ON FUNCTION kwdbml._job_types(text[]) IS 'job types from text; 22023 for an unknown one';
CREATE FUNCTION kwdbml._job_statuses(wanted text[]) RETURNS kwdbml.job_status[] LANGUAGE sql STABLE
RETURN kwdbml._valid_words('status', wanted, pg_catalog.enum_range(NULL::kwdbml.job_status)::text[])::kwdbml.job_status[];
COMMENT ON FUNCTION kwdbml._job_statuses(text[]) IS 'job statuses from text; 22023 for an unknown one';

-- Contract: true, or the error of the first bad argument. A one-time filter in show_jobs, so that it also speaks
-- when there is no row to filter.
CREATE FUNCTION kwdbml._check_job_filter(model_name text, model_version bigint, types text[], statuses text[])
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM kwdbml._valid_words('type', types, pg_catalog.enum_range(NULL::kwdbml.job_type)::text[]);
    PERFORM kwdbml._valid_words('status', statuses, pg_catalog.enum_range(NULL::kwdbml.job_status)::text[]);
    IF model_version < 0 THEN
        RAISE EXCEPTION 'invalid model version %', model_version
            USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest; leave the version out for all.';
    ELSIF model_version = 0 AND model_name IS NULL THEN
        RAISE EXCEPTION 'model version 0 is the newest of a model, and no model is named'
            USING ERRCODE = '22023', HINT = 'Name the model, or leave the version out.';
    END IF;
    RETURN model_name IS NULL OR kwdbml._qualified('model', model_name) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION kwdbml._check_job_filter(text, bigint, text[], text[]) IS 'checks the arguments of show_jobs';

-- Contract: the number of the version that is meant: 0 is the newest of a model that the caller sees. STABLE and PL/pgSQL,
-- which keeps its plan: asked once per call of show_jobs, and only when a version is given.
CREATE FUNCTION kwdbml._wanted_version(model_name text, model_version bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[];
BEGIN
    IF model_version <> 0 OR model_name IS NULL OR model_name = '*' THEN
        RETURN model_version;
    END IF;
    parts := kwdbml._name('model', model_name);
    RETURN (SELECT v.version FROM kwdbml.model m, kwdbml._usable_version(m.id, 0) v
            WHERE m.schema = parts[1] AND m.name = parts[2]);
END
$$;
COMMENT ON FUNCTION kwdbml._wanted_version(text, bigint) IS 'a version''s number, where 0 means the newest';

-- Contract: the caller's jobs (an admin's: all) that pass the filters, newest first. Inlinable: LANGUAGE sql, STABLE,
-- SECURITY INVOKER, no SET, so that LIMIT and WHERE of the outer query reach the indexes. A lone untyped list
-- arrives as the name '{RUNNING}': it means the statuses.
CREATE FUNCTION kwdbml.show_jobs(
    model_name text DEFAULT NULL, model_version bigint DEFAULT NULL, job_type text[] DEFAULT NULL, job_status text[] DEFAULT NULL)
RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT j.id::text, j.type::text, j.status::text, j.pipeline_name, j.model_name, j.model_version, j.creator::text,
           j.created, j.finished, j.settings, j.result, j.error
    FROM kwdbml.job j
    WHERE (($1 IS NULL OR $1 = '*') AND $2 IS NULL AND $3 IS NULL AND $4 IS NULL
           OR kwdbml._check_job_filter(
                CASE WHEN $1 <> '*' AND pg_catalog.left($1, 1) <> '{' THEN $1 END, $2, $3,
                CASE WHEN pg_catalog.left($1, 1) = '{' THEN kwdbml._word_list($1) ELSE $4 END))
      AND ($1 IS NULL OR $1 = '*' OR pg_catalog.left($1, 1) = '{'
           OR j.model_name = (SELECT kwdbml._qualified('model', $1)))
      AND ($2 IS NULL OR j.model_version = (SELECT kwdbml._wanted_version($1, $2)))
      AND (kwdbml._no_filter($3) OR j.type = ANY ((SELECT kwdbml._job_types($3))::kwdbml.job_type[]))
      AND (kwdbml._no_filter(CASE WHEN pg_catalog.left($1, 1) = '{' THEN $1::text[] ELSE $4 END)
           OR j.status = ANY ((SELECT kwdbml._job_statuses(
                CASE WHEN pg_catalog.left($1, 1) = '{' THEN $1::text[] ELSE $4 END))::kwdbml.job_status[]))
    ORDER BY j.created DESC;
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, bigint, text[], text[]) IS
    'your jobs (an admin''s: all), newest first; NULL, ''*'' or leaving out means no filter';

-- Without argument names, so that named notation always means the full signature.
CREATE FUNCTION kwdbml.show_jobs(text, text[], text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs($1, NULL::bigint, $2, $3);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, text[], text[]) IS 'show_jobs(model_name, job_type, job_status)';
CREATE FUNCTION kwdbml.show_jobs(text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs(NULL::text, NULL::bigint, NULL::text[], $1);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text[]) IS 'show_jobs(job_status)';
CREATE FUNCTION kwdbml.show_jobs(text, text, text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs(
        $1,
        CASE WHEN $2 ~ '^\s*-?\d+\s*$' THEN kwdbml._version($2) END,
        CASE WHEN $2 IS NULL OR $2 ~ '^\s*-?\d+\s*$' THEN $3 ELSE kwdbml._word_list($2) END,
        CASE WHEN $2 IS NULL OR $2 ~ '^\s*-?\d+\s*$' THEN NULL ELSE $3 END);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, text, text[]) IS
    'show_jobs with untyped arguments: the second is a version when it is digits or NULL, else a list of job types';
