-- Triggers write on UPDATE and DELETE only: one that writes on INSERT would fire while a dump is restored.

CREATE FUNCTION kwdbml._job_ends() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = 'CANCELED' THEN
        NEW.error := jsonb_build_object('type', 'Canceled', 'message', 'canceled by ' || current_user);
    END IF;
    NEW.finished := clock_timestamp();
    NEW.updated := NEW.finished;
    -- hints to look, no more: anybody can send them
    PERFORM pg_notify('kwdbml_job_finished', NEW.id::text);
    PERFORM pg_notify('kwdbml_wake', NEW.id::text);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION kwdbml._job_ends() IS 'fills in what follows from a job''s new status and tells who listens';
CREATE TRIGGER job_ends BEFORE UPDATE OF status ON kwdbml.job
    FOR EACH ROW WHEN (OLD.status = 'RUNNING' AND NEW.status <> 'RUNNING') EXECUTE FUNCTION kwdbml._job_ends();

-- What an attempt leaves behind must be stopped and deleted, whether it has ended or its row goes away. The worker that
-- ended it has half a minute to do so at once.
CREATE FUNCTION kwdbml._attempt_ends() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO kwdbml.cleanup (engine, run_name, host, handle, not_before)
    VALUES (OLD.engine, OLD.run_name, OLD.host, OLD.handle,
            clock_timestamp() + CASE TG_OP WHEN 'UPDATE' THEN interval '30 seconds' ELSE interval '0' END);
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('kwdbml_wake', OLD.job_id::text);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kwdbml._attempt_ends() IS 'remembers the run of an attempt, to be stopped and deleted';
CREATE TRIGGER attempt_gone AFTER DELETE ON kwdbml.attempt
    FOR EACH ROW WHEN (OLD.ended IS NULL) EXECUTE FUNCTION kwdbml._attempt_ends();
CREATE TRIGGER attempt_ended AFTER UPDATE OF ended ON kwdbml.attempt
    FOR EACH ROW WHEN (OLD.ended IS NULL AND NEW.ended IS NOT NULL AND NEW.outcome <> 'RESTORED')
    EXECUTE FUNCTION kwdbml._attempt_ends();

-- The row is locked before a BEFORE DELETE trigger runs, and a job that refers to it has locked it too: whoever
-- comes second sees the other.
CREATE FUNCTION kwdbml._pipeline_in_use() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.pipeline_id = OLD.id AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'training pipeline "%.%" is used by a running job', OLD.schema, OLD.name
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION kwdbml._pipeline_in_use() IS 'keeps a pipeline while a running job uses it';
CREATE TRIGGER pipeline_in_use BEFORE DELETE ON kwdbml.pipeline
    FOR EACH ROW EXECUTE FUNCTION kwdbml._pipeline_in_use();

-- A version goes alone or with its model; either way not while a running job refers to it.
CREATE FUNCTION kwdbml._version_in_use() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.model_version_id = OLD.id AND j.status = 'RUNNING')
       OR EXISTS (SELECT FROM kwdbml.attempt a JOIN kwdbml.job j ON j.id = a.job_id
                  WHERE a.compared_version_id = OLD.id AND a.ended IS NULL AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'version % of the model is used by a running job', OLD.version
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION kwdbml._version_in_use() IS 'keeps a version while a running job uses it';
CREATE TRIGGER version_in_use BEFORE DELETE ON kwdbml.model_version
    FOR EACH ROW EXECUTE FUNCTION kwdbml._version_in_use();
