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
            AND coalesce(pg_catalog.jsonb_typeof(engines #> '{local,python}'), 'string') = 'string'),
    PRIMARY KEY (framework, runtime)
);
COMMENT ON TABLE kwdbml.runtime IS 'the framework and runtime pairs that bundles may declare; runs_as is the framework whose code runs them';
COMMENT ON COLUMN kwdbml.runtime.image IS 'container image for engines that need one';
COMMENT ON COLUMN kwdbml.runtime.engines IS
    'what the pair means for an engine, by its name; local: {"python": a name that kwdbml worker --python gives}';

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
