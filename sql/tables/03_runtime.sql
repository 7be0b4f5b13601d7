-- Amounts as kwdbml/quantity.py reads them: cores from 0.001 to below 1e6, bytes from 1 to below 2^63.
CREATE FUNCTION kwdbml._is_cpu(amount text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amount ~ '^([0-9]{1,6}([.][0-9]{1,3})?|[0-9]{1,9}m)$' AND amount ~ '[1-9]';
COMMENT ON FUNCTION kwdbml._is_cpu(text) IS 'whether a text is an amount of cores, such as 2, 0.5 or 500m';

CREATE FUNCTION kwdbml._is_mem(amount text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amount ~ '^([0-9]{1,18}|[0-9]{1,6}([.][0-9]{1,3})?[KkMmGgTt]i?)[Bb]?$' AND amount ~ '[1-9]';
COMMENT ON FUNCTION kwdbml._is_mem(text) IS 'whether a text is an amount of memory, such as 512Mi or 4G';

-- Of what is said of kubeflow, what is known. 0.2.0 took any object there, which meant nothing.
CREATE FUNCTION kwdbml._known_engines(engines jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.jsonb_typeof(engines -> 'kubeflow') = 'object' THEN
    engines || pg_catalog.jsonb_build_object('kubeflow', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(k.key, k.value), '{}')
        FROM pg_catalog.jsonb_each(engines -> 'kubeflow') AS k
        WHERE coalesce(CASE k.key
            WHEN 'pull_policy' THEN k.value #>> '{}' IN ('Always', 'IfNotPresent', 'Never')
            WHEN 'cpu' THEN kwdbml._is_cpu(k.value #>> '{}')
            WHEN 'mem' THEN kwdbml._is_mem(k.value #>> '{}')
            ELSE false END, true)))
    ELSE engines END;
COMMENT ON FUNCTION kwdbml._known_engines(jsonb) IS 'what a runtime may say of engines, without what kubeflow does not take';

-- Which (framework, runtime) pairs a bundle may declare, and which one really runs it. Admins add rows of their own.
CREATE TABLE kwdbml.runtime (
    framework text NOT NULL CHECK (framework = pg_catalog.lower(framework)),
    runtime text NOT NULL CHECK (runtime = pg_catalog.lower(runtime)),
    runs_as text NOT NULL,
    image text,
    builtin boolean NOT NULL DEFAULT false,
    engines jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT engines_by_name CHECK (
            pg_catalog.jsonb_typeof(engines) = 'object'
            AND NOT pg_catalog.jsonb_path_exists(engines, 'strict $.* ? (@.type() != "object")'))
        CONSTRAINT local_takes_a_python CHECK (
            coalesce(engines -> 'local', '{}') - 'python' = '{}'
            AND coalesce(pg_catalog.jsonb_typeof(engines #> '{local,python}'), 'string') = 'string')
        CONSTRAINT kubeflow_takes_a_pull_policy_cpu_and_mem CHECK (kwdbml._known_engines(engines) = engines),
    PRIMARY KEY (framework, runtime)
);
COMMENT ON TABLE kwdbml.runtime IS 'the framework and runtime pairs that bundles may declare; runs_as is the framework whose code runs them';
COMMENT ON COLUMN kwdbml.runtime.image IS 'container image for engines that need one; NULL: the one that the worker was told';
COMMENT ON COLUMN kwdbml.runtime.engines IS
    'what else the pair means for an engine, by its name; local: {"python": a name that kwdbml worker --python gives}; kubeflow: {"pull_policy", "cpu", "mem"}';

-- A dump of 0.2.0 is restored as well. Only the owner may write builtin, and so only he can restore: admins are refused.
CREATE FUNCTION kwdbml._runtime_restored() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE WARNING 'kwdbml.runtime (%, %): % is left out of engines', NEW.framework, NEW.runtime,
        (SELECT string_agg(k.key || ' = ' || k.value, ', ') FROM jsonb_each(NEW.engines -> 'kubeflow') AS k
         WHERE NOT kwdbml._known_engines(NEW.engines) #> '{kubeflow}' ? k.key)
        USING HINT = 'kubeflow takes pull_policy, cpu and mem; an image is in the column image.';
    NEW.engines := kwdbml._known_engines(NEW.engines);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION kwdbml._runtime_restored() IS 'makes of an older version''s row one of this version';
CREATE TRIGGER runtime_restored BEFORE INSERT ON kwdbml.runtime FOR EACH ROW
    WHEN (kwdbml._known_engines(NEW.engines) <> NEW.engines
          AND pg_catalog.has_column_privilege('kwdbml.runtime', 'builtin', 'INSERT'))
    EXECUTE FUNCTION kwdbml._runtime_restored();

INSERT INTO kwdbml.runtime (framework, runtime, runs_as, builtin)
SELECT f.name || '_' || v.version, 'python_' || p.version, f.name, true
FROM (VALUES
        ('sklearn', ARRAY['0.24', '1.0', '1.1', '1.2', '1.3', '1.4', '1.5', '1.6', '1.7', '1.8', '1.9']),
        ('xgboost', ARRAY['1.5', '1.6', '1.7', '2.0', '2.1', '3.0', '3.1', '3.2']),
        ('lightgbm', ARRAY['3.2', '3.3', '4.0', '4.1', '4.2', '4.3', '4.4', '4.5', '4.6', '4.7']),
        ('tensorflow', ARRAY['2.8', '2.9', '2.10', '2.11', '2.12', '2.13', '2.14', '2.15', '2.16', '2.17', '2.18', '2.19', '2.20'])
     ) AS f(name, versions),
     pg_catalog.unnest(f.versions) AS v(version),
     pg_catalog.unnest(ARRAY['3.8', '3.9', '3.10', '3.11', '3.12', '3.13']) AS p(version);
