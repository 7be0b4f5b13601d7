-- Contract: the end of a successful job, in the transaction that stored its artefacts or rows: version, metrics and
-- status together, or nothing. The job's row is locked last; it lands only if the job is RUNNING and the token is held.
-- outcome: {metrics, rows_read, rows_dropped, rows_written, main_score, data_hash, libraries, result,
--           artefacts: [{id, bytes, sha256}]}
CREATE FUNCTION kwdbml.worker_land(job uuid, held uuid, outcome jsonb) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    answer jsonb := outcome -> 'result';
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    IF j.type = 'TRAIN' THEN
        PERFORM kwdbml._land_version(j, spec, outcome, a.started);
    ELSIF j.type = 'EVALUATE' THEN
        UPDATE kwdbml.model_version v SET last_metrics = outcome -> 'metrics' WHERE v.id = j.model_version_id;
        UPDATE kwdbml.model m SET last_updated = clock_timestamp()
        FROM kwdbml.model_version v WHERE v.id = j.model_version_id AND m.id = v.model_id;
    ELSE
        PERFORM kwdbml._result_close(j, held, spec -> 'target');
    END IF;
    UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = 'SUCCEEDED', phase = 'finalizing', progress = 1,
        updated = clock_timestamp()
    WHERE t.job_id = job AND t.token = held AND t.ended IS NULL;
    IF NOT FOUND THEN
        PERFORM kwdbml._fence(job, held);  -- taken over while we waited for a lock
    END IF;
    UPDATE kwdbml.job b
    SET status = 'SUCCEEDED', result = answer, rows_read = (outcome ->> 'rows_read')::bigint,
        rows_dropped = (outcome ->> 'rows_dropped')::bigint, rows_written = (outcome ->> 'rows_written')::bigint,
        main_score = (outcome ->> 'main_score')::double precision, data_hash = outcome ->> 'data_hash',
        libraries = outcome -> 'libraries',
        pipeline_hash = (SELECT p.content_hash FROM kwdbml.pipeline p WHERE p.id = b.pipeline_id)
    WHERE b.id = job AND b.status = 'RUNNING';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % has ended meanwhile', job USING ERRCODE = '55000', HINT = 'It was canceled or removed.';
    END IF;
    RETURN 'SUCCEEDED';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_land(uuid, uuid, jsonb) IS 'for workers: the one way to SUCCEEDED';

-- Contract: the next version of the model, made with the model when it is new; 42710 and 42501 as at the call.
CREATE FUNCTION kwdbml._land_version(j kwdbml.job, spec jsonb, outcome jsonb, began timestamptz) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
    p kwdbml.pipeline;
    is_new boolean := false;
    goes_live boolean;
    version_id uuid;
    -- the object part holds no dot, the schema part may
    model_schema text := regexp_replace(j.model_name, '\.[^.]*$', '');
    object text := regexp_replace(j.model_name, '^.*\.', '');
BEGIN
    SELECT * INTO STRICT p FROM kwdbml.pipeline b WHERE b.id = j.pipeline_id;
    SELECT * INTO m FROM kwdbml.model b WHERE b.schema = model_schema AND b.name = object FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO kwdbml.model (schema, name, description, creator, problem_type, features, target)
        VALUES (model_schema, object, format('Model trained by pipeline %s.', j.pipeline_name), j.creator, p.problem_type, p.features, p.target)
        ON CONFLICT DO NOTHING RETURNING * INTO m;
        is_new := FOUND;
        IF NOT is_new THEN
            SELECT * INTO STRICT m FROM kwdbml.model b WHERE b.schema = model_schema AND b.name = object FOR UPDATE;
        END IF;
    END IF;
    goes_live := m.next_version = 1 OR coalesce((j.settings ->> 'immediately_deploy')::boolean, false);
    IF NOT is_new THEN
        PERFORM kwdbml._check_next_version(j, m, p, goes_live);
    END IF;
    IF goes_live THEN
        UPDATE kwdbml.model_version v SET active = false WHERE v.model_id = m.id AND v.active;
    END IF;
    INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime, algorithm, hyperparameters, last_metrics,
        pipeline_name, pipeline_hash, job_id, data_query, data_hash, rows_read, libraries, duration)
    VALUES (m.id, m.next_version, goes_live, j.creator, p.framework, p.runtime,
        CASE WHEN NOT (spec ->> 'user_code')::boolean THEN p.algorithm END, coalesce(spec -> 'hyperparameters', '{}'),
        outcome -> 'metrics', j.pipeline_name, p.content_hash, j.id, j.data_query, outcome ->> 'data_hash',
        (outcome ->> 'rows_read')::bigint, outcome -> 'libraries', clock_timestamp() - began)
    RETURNING id INTO version_id;
    UPDATE kwdbml.model b SET next_version = b.next_version + 1, last_updated = clock_timestamp() WHERE b.id = m.id;
    UPDATE kwdbml.artefact f SET model_version_id = version_id, bytes = r.bytes, sha256 = r.sha256
    FROM jsonb_to_recordset(outcome -> 'artefacts') AS r(id uuid, bytes bigint, sha256 text)
    WHERE f.id = r.id AND num_nonnulls(f.pipeline_id, f.model_version_id) = 0;
END
$$;
COMMENT ON FUNCTION kwdbml._land_version(kwdbml.job, jsonb, jsonb, timestamptz) IS 'adds a trained version';
REVOKE ALL ON FUNCTION kwdbml._land_version(kwdbml.job, jsonb, jsonb, timestamptz) FROM PUBLIC;

CREATE FUNCTION kwdbml._check_next_version(j kwdbml.job, m kwdbml.model, p kwdbml.pipeline, goes_live boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT coalesce((j.settings ->> 'new_version_if_exists')::boolean, false) OR NOT kwdbml._model_right(m.id, 'SELECT', j.creator)
       AND NOT kwdbml._model_right(m.id, 'CREATE', j.creator) THEN
        RAISE EXCEPTION 'model % already exists', j.model_name
            USING ERRCODE = '42710', HINT = CASE WHEN coalesce((j.settings ->> 'new_version_if_exists')::boolean, false)
                THEN 'It belongs to another role and is not yours to extend: choose another name.'
                ELSE 'Pass new_version_if_exists => true, or choose another name.' END;
    END IF;
    IF NOT kwdbml._model_right(m.id, 'CREATE', j.creator) OR goes_live AND NOT kwdbml._model_right(m.id, 'UPDATE', j.creator) THEN
        RAISE EXCEPTION 'permission denied for model %', j.model_name
            USING ERRCODE = '42501', HINT = 'A new version needs CREATE on the model, and UPDATE to be deployed.';
    END IF;
    IF (m.problem_type, m.features, m.target) IS DISTINCT FROM (p.problem_type, p.features, p.target) THEN
        RAISE EXCEPTION 'training pipeline % does not fit model %', j.pipeline_name, j.model_name
            USING ERRCODE = '22023', HINT = 'A new version needs the model''s problem type, features and target (names, types, order).';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_next_version(kwdbml.job, kwdbml.model, kwdbml.pipeline, boolean) IS
    'whether a job may add a version to a model';
REVOKE ALL ON FUNCTION kwdbml._check_next_version(kwdbml.job, kwdbml.model, kwdbml.pipeline, boolean) FROM PUBLIC;
