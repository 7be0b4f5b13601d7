-- Contract: what a worker needs to know of a job, all checked again as it stands now, because no request column is
-- trusted: the creator is the same role, has the rights still, and what is named is there. Else the error of the job.
CREATE FUNCTION kwdbml.worker_spec(job uuid, held uuid) RETURNS jsonb LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    j kwdbml.job;
    p kwdbml.pipeline;
    v kwdbml.model_version;
    m kwdbml.model;
    r kwdbml.runtime;
    wanted text;
    env jsonb;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    PERFORM kwdbml._check_creator(j.creator, j.creator_oid);
    IF j.pipeline_name IS NOT NULL OR j.pipeline_id IS NOT NULL THEN
        wanted := CASE j.type WHEN 'TRAIN' THEN 'TRAIN' ELSE 'SELECT' END;
        SELECT * INTO p FROM kwdbml.pipeline b WHERE b.id = j.pipeline_id;
        IF FOUND AND p.schema || '.' || p.name IS DISTINCT FROM j.pipeline_name THEN
            RAISE EXCEPTION 'the job names another training pipeline than it refers to'
                USING ERRCODE = '22023', HINT = 'Use kwdbml.train_model, evaluate_model or batch_predict.';
        ELSIF p.id IS NULL OR NOT kwdbml._pipeline_right(p.id, wanted, j.creator) THEN
            RAISE EXCEPTION 'permission denied for training pipeline %', j.pipeline_name
                USING ERRCODE = '42501', HINT = format('%s was revoked after the call, or the pipeline is gone.', wanted);
        END IF;
    ELSIF j.type = 'TRAIN' THEN
        RAISE EXCEPTION 'a TRAIN job needs a training pipeline' USING ERRCODE = '22023', HINT = 'Use kwdbml.train_model.';
    END IF;
    IF j.type = 'TRAIN' THEN
        PERFORM kwdbml._check_model_name(j.model_name, j.creator);
    ELSE
        wanted := CASE j.type WHEN 'EVALUATE' THEN 'EVALUATE' ELSE 'PREDICT' END;
        SELECT * INTO v FROM kwdbml.model_version b WHERE b.id = j.model_version_id;
        SELECT * INTO m FROM kwdbml.model b WHERE b.id = v.model_id;
        IF NOT FOUND OR NOT kwdbml._model_right(m.id, wanted, j.creator) THEN
            RAISE EXCEPTION 'permission denied for model %', j.model_name
                USING ERRCODE = '42501', HINT = format('%s was revoked after the call, or the model is gone.', wanted);
        END IF;
    END IF;
    IF j.type = 'BATCH_PREDICT' THEN
        PERFORM kwdbml._result_place(j.settings ->> 'result_table');
    END IF;
    SELECT * INTO r FROM kwdbml.runtime b
    WHERE (b.framework, b.runtime) = (coalesce(v.framework, p.framework), coalesce(v.runtime, p.runtime));
    SELECT e.env INTO env FROM kwdbml.job_env e WHERE e.job_id = job;
    RETURN kwdbml._placement(j.settings, j.engine, j.creator) || jsonb_build_object(
        -- what was uploaded decides, not what a row says of itself
        'user_code', p.id IS NOT NULL AND (p.algorithm IS NULL OR EXISTS (SELECT FROM kwdbml.artefact f WHERE f.pipeline_id = p.id))
            OR v.id IS NOT NULL AND (v.algorithm IS NULL OR EXISTS (
                SELECT FROM kwdbml.artefact f WHERE f.model_version_id = v.id AND f.kind <> 'model')),
        'type', j.type, 'settings', j.settings, 'retries', j.retries, 'env', coalesce(env, '{}'),
        'engine', j.engine, 'creator', j.creator, 'model', j.model_name, 'labels', j.labels, 'annotations', j.annotations,
        'ttl', coalesce(j.settings -> 'ttl', kwdbml._setting('default_ttl')),
        'model_limit', kwdbml._setting('model_limit'),
        'problem_type', coalesce(m.problem_type, p.problem_type),
        'features', coalesce(m.features, p.features), 'target', coalesce(m.target, p.target),
        'framework', coalesce(r.runs_as, v.framework, p.framework), 'runtime', coalesce(r.engines -> j.engine, '{}'),
        'image', r.image,
        'algorithm', CASE WHEN j.type = 'TRAIN' THEN p.algorithm ELSE v.algorithm END,
        'hyperparameters', coalesce(CASE WHEN j.type = 'TRAIN' THEN p.hyperparameters ELSE v.hyperparameters END, '{}')
            || coalesce(j.settings -> 'hyperparameters', '{}'));
END
$$;
COMMENT ON FUNCTION kwdbml.worker_spec(uuid, uuid) IS 'for workers: what to run, checked again';

-- Contract: 22023, 3F000 or 42501 unless the name is one that kwdbml._name could have answered to this role.
CREATE FUNCTION kwdbml._check_model_name(model_name text, who name) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[] := regexp_match(model_name, '^(.+)\.([^.]+)$');
    home oid := to_regnamespace(quote_ident(parts[1]));
BEGIN
    -- of ASCII by number: what else is a letter depends on the locale, and the callers' functions have looked
    IF parts IS NULL OR octet_length(parts[2]) > 63 OR parts[2] ~ '^[0-9_]|[\u0001-\u002f\u003a-\u0040\u005b-\u005e\u0060\u007b-\u007f]' THEN
        RAISE EXCEPTION 'invalid model name "%"', model_name USING ERRCODE = '22023', HINT = 'Use kwdbml.train_model.';
    ELSIF home IS NULL THEN
        RAISE EXCEPTION 'schema "%" does not exist', parts[1] USING ERRCODE = '3F000', HINT = 'It was dropped after the call.';
    ELSIF kwdbml._is_system_schema(parts[1]) THEN
        RAISE EXCEPTION 'permission denied to make model "%": schema % is the system''s', model_name, parts[1]
            USING ERRCODE = '42501', HINT = 'Use kwdbml.train_model.';
    ELSIF NOT has_schema_privilege(who, home, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for schema %', parts[1] USING ERRCODE = '42501', HINT = 'USAGE was revoked after the call.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_model_name(text, name) IS 'whether a role may make a model of this name';

-- Contract: 42704 unless the role that submitted is still the one of this name.
CREATE FUNCTION kwdbml._check_creator(creator name, creator_oid oid) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regrole(quote_ident(creator))::oid IS DISTINCT FROM creator_oid THEN
        RAISE EXCEPTION 'role "%" was dropped after it submitted the job', creator
            USING ERRCODE = '42704', HINT = 'A new role of the same name is another person: let it submit the job again.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_creator(name, oid) IS 'whether a job''s creator is still the same role';
