-- What a dump must carry. Not: installation (a copy is another one), cleanup (the original cleans up after itself),
-- job_env (secrets, of use only to jobs that do not run again), and request (always empty; its trigger would act again).
-- A new table is one or the other: tests/extension/test_dump.py asks. Those of 14_placement.sql say it themselves.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['settings', 'pipeline', 'pipeline_privilege', 'model', 'model_version', 'model_privilege',
        'artefact', 'artefact_chunk', 'job', 'attempt', 'job_log']
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.to_regclass('kwdbml.' || t), '');
    END LOOP;
    PERFORM pg_catalog.pg_extension_config_dump('kwdbml.runtime', 'WHERE NOT builtin');
END
$$;
