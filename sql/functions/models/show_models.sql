-- Contract: one row per model on which the caller has SELECT, of its active version.
CREATE FUNCTION kwdbml.show_models() RETURNS SETOF kwdbml.model_row LANGUAGE sql STABLE ROWS 100
BEGIN ATOMIC
    SELECT m.schema, m.name, m.description, m.creator::text, m.created, m.last_updated, m.problem_type, m.features,
           m.target, v.framework, v.runtime, v.version, v.last_metrics, '{"status": "Ready"}'::jsonb
    FROM kwdbml.model m
    JOIN kwdbml.model_version v ON v.model_id = m.id AND v.active
    WHERE kwdbml._model_right(m.id, 'SELECT', current_user)
    ORDER BY m.schema, m.name;
END;
COMMENT ON FUNCTION kwdbml.show_models() IS 'the models that you may see, each with its active version';

-- Contract: one row per version, by number; 42704 in the same words whether it does not exist or is not yours to see.
CREATE FUNCTION kwdbml.show_model(model_name text, model_version bigint DEFAULT NULL)
RETURNS SETOF kwdbml.model_version_row LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    parts text[] := kwdbml._name('model', model_name);
BEGIN
    IF show_model.model_version < 0 THEN
        RAISE EXCEPTION 'invalid model version %', show_model.model_version
            USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest; leave the version out for all.';
    END IF;
    RETURN QUERY
        SELECT m.schema, m.name, m.description, m.creator::text, v.created, m.last_updated, m.problem_type, m.features,
               m.target, v.framework, v.runtime, a.version, v.last_metrics, '{"status": "Ready"}'::jsonb, v.version,
               pg_catalog.jsonb_build_object('job_id', v.job_id, 'creator', v.creator, 'pipeline_name', v.pipeline_name,
                   'pipeline_hash', v.pipeline_hash, 'train_data', v.data_query, 'data_hash', v.data_hash, 'rows_read', v.rows_read,
                   'libraries', v.libraries, 'duration_seconds', extract(epoch FROM v.duration),
                   'holdout_hash', v.holdout_hash, 'holdout_metrics', v.holdout_metrics)
        FROM kwdbml.model m
        JOIN kwdbml.model_version v ON v.model_id = m.id
        JOIN kwdbml.model_version a ON a.model_id = m.id AND a.active
        WHERE m.schema = parts[1] AND m.name = parts[2] AND kwdbml._model_right(m.id, 'SELECT', current_user)
          AND (show_model.model_version IS NULL OR v.version = show_model.model_version
               OR show_model.model_version = 0
                  AND v.version = (SELECT pg_catalog.max(n.version) FROM kwdbml.model_version n WHERE n.model_id = m.id))
        ORDER BY v.version;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM kwdbml.model m WHERE m.schema = parts[1] AND m.name = parts[2]
                   AND kwdbml._model_right(m.id, 'SELECT', current_user)) THEN
            RAISE EXCEPTION 'model %.% has no version %', parts[1], parts[2], show_model.model_version
                USING ERRCODE = '42704', HINT = 'SELECT version FROM kwdbml.show_model(name) lists its versions; 0 is the newest.';
        END IF;
        RAISE EXCEPTION 'no such model: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_models() lists those you may see.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.show_model(text, bigint) IS 'the versions of a model; version 0 is the newest';

CREATE FUNCTION kwdbml.show_models(model_name text, model_version bigint DEFAULT NULL) RETURNS SETOF kwdbml.model_version_row
LANGUAGE sql STABLE ROWS 10
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_model($1, $2);
END;
COMMENT ON FUNCTION kwdbml.show_models(text, bigint) IS 'show_model in the vendor''s other spelling';
