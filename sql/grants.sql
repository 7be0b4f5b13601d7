-- Every right that anybody has, in one place. What is not granted here is the extension owner's alone.
-- A trigger function believes its row: whoever may EXECUTE it can hang it on a table of his own and fill the row himself.
DO $$
DECLARE
    f regprocedure;
    fires boolean;
BEGIN
    FOR f, fires IN SELECT p.oid::regprocedure, p.prorettype = 'trigger'::regtype FROM pg_catalog.pg_proc p
                    WHERE p.pronamespace = 'kwdbml'::regnamespace
                      AND (p.proname LIKE 'worker\_%' OR p.prorettype = 'trigger'::regtype)
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
        IF NOT fires THEN
            EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO kwdbml_worker', f);
        END IF;
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA kwdbml TO PUBLIC;

GRANT SELECT ON kwdbml.installation, kwdbml.settings, kwdbml.runtime, kwdbml.flavour, kwdbml.file_system,
    kwdbml.pipeline, kwdbml.pipeline_privilege,
    kwdbml.model, kwdbml.model_version, kwdbml.model_privilege, kwdbml.job, kwdbml.job_env, kwdbml.job_log, kwdbml.jobs,
    kwdbml._usable TO PUBLIC;
-- not the token, which is the right to end the job, nor the handle
GRANT SELECT (job_id, number, worker, lease_until, phase, step, progress, engine, started, updated, ended, outcome)
    ON kwdbml.attempt TO PUBLIC;

-- Requests: these columns and no others. A table-level INSERT or UPDATE would let anybody forge a SUCCEEDED job.
GRANT INSERT (schema, name, description, problem_type, framework, runtime, features, target, algorithm,
    hyperparameters, scripts, content_hash) ON kwdbml.pipeline TO PUBLIC;
GRANT INSERT (kind, arguments, bundles), SELECT (answer, requester) ON kwdbml.request TO PUBLIC;
GRANT INSERT (type, pipeline_name, pipeline_id, model_name, model_version, model_version_id, settings, data_query,
    data_relation, data_columns, engine, queue, priority, labels, annotations, retries) ON kwdbml.job TO PUBLIC;
GRANT UPDATE (status) ON kwdbml.job TO PUBLIC;
GRANT INSERT (job_id, env) ON kwdbml.job_env TO PUBLIC;

GRANT DELETE ON kwdbml.job TO kwdbml_admin;
GRANT INSERT (name, value), UPDATE (value), DELETE ON kwdbml.settings TO kwdbml_admin;
GRANT INSERT (framework, runtime, runs_as, image, engines), UPDATE (runs_as, image, engines), DELETE ON kwdbml.runtime TO kwdbml_admin;
GRANT INSERT (name, cpu, mem, scalar_resources, node_selector, tolerations, description),
    UPDATE (cpu, mem, scalar_resources, node_selector, tolerations, description), DELETE ON kwdbml.flavour TO kwdbml_admin;
GRANT INSERT (name, claim, sub_path, roles, description), UPDATE (claim, sub_path, roles, description), DELETE
    ON kwdbml.file_system TO kwdbml_admin;
