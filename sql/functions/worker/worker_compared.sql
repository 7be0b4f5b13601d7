-- Contract: what a training with settings.promote is compared with: {} when the model has no version yet, else the version
-- that was active at the first call of the attempt: {version, framework, user_code, problem}, with a problem when it
-- needs another environment than the one that the run has. NULL for every other job. 42501 without EVALUATE.
CREATE FUNCTION kwdbml.worker_compared(job uuid, held uuid) RETURNS jsonb LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    j kwdbml.job;
    p kwdbml.pipeline;
    m kwdbml.model;
    v kwdbml.model_version;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    IF j.type <> 'TRAIN' OR NOT j.settings ? 'promote' THEN
        RETURN NULL;
    END IF;
    SELECT * INTO m FROM kwdbml.model b
    WHERE (b.schema, b.name) = (regexp_replace(j.model_name, '\.[^.]*$', ''), regexp_replace(j.model_name, '^.*\.', ''));
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    PERFORM kwdbml._check_may_compare(m, j);
    -- it must not go away any more; one that somebody is removing just now is not the active one much longer
    SELECT * INTO v FROM kwdbml.model_version b
    WHERE b.model_id = m.id AND CASE WHEN a.compared_version_id IS NULL THEN b.active ELSE b.id = a.compared_version_id END
    FOR KEY SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN '{}';
    END IF;
    UPDATE kwdbml.attempt t SET compared_version_id = v.id WHERE t.job_id = job AND t.number = a.number;
    SELECT * INTO STRICT p FROM kwdbml.pipeline b WHERE b.id = j.pipeline_id;
    RETURN jsonb_build_object(
        'version', v.version,
        'framework', coalesce((SELECT r.runs_as FROM kwdbml.runtime r WHERE (r.framework, r.runtime) = (v.framework, v.runtime)),
                              v.framework),
        'user_code', v.algorithm IS NULL
            OR EXISTS (SELECT FROM kwdbml.artefact f WHERE f.model_version_id = v.id AND f.kind <> 'model'),
        'problem', CASE WHEN kwdbml._environment(v.framework, v.runtime, j.engine)
                             <> kwdbml._environment(p.framework, p.runtime, j.engine)
                        THEN format('its runtime, %s with %s, is another environment than that of the new version', v.runtime, v.framework) END);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_compared(uuid, uuid) IS 'for workers: the version that a training is compared with';

-- Contract: 42501 unless the creator of the job may evaluate the model: a score is what an evaluation answers, and user
-- code of the job could read the bundles of the version. Nothing to refuse where there is no version.
CREATE FUNCTION kwdbml._check_may_compare(m kwdbml.model, j kwdbml.job) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF m.next_version > 1 AND NOT kwdbml._model_right(m.id, 'EVALUATE', j.creator) THEN
        RAISE EXCEPTION 'permission denied for model %', j.model_name
            USING ERRCODE = '42501', HINT = 'settings.promote needs EVALUATE on the model; its creator can grant that.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_may_compare(kwdbml.model, kwdbml.job) IS 'whether a new version may be compared with the active one';

-- Contract: what a runtime is on an engine: equal ones are one environment. How much of a machine a run gets is none.
CREATE FUNCTION kwdbml._environment(declared_framework text, declared_runtime text, on_engine text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(
        (SELECT jsonb_build_object('image', r.image, 'engine', nullif((r.engines -> on_engine) - '{pull_policy,cpu,mem}'::text[], '{}'))
         FROM kwdbml.runtime r
         WHERE (r.framework, r.runtime) = (declared_framework, declared_runtime)),
        '{"image": null, "engine": null}');
END
$$;
COMMENT ON FUNCTION kwdbml._environment(text, text, text) IS 'what a declared (framework, runtime) pair means for an engine';
