-- What runs once on the way from 0.2.0 to 0.3.0: the parts of schema.sql and tables/ that are new.

ALTER TABLE kwdbml.settings DROP CONSTRAINT settings_name_check, DROP CONSTRAINT settings_check,
    ADD CONSTRAINT settings_name_check CHECK (name IN ('bundle_limit', 'model_limit', 'default_engine', 'default_ttl', 'images')),
    ADD CONSTRAINT default_engine_is_local_or_kubeflow CHECK (name <> 'default_engine' OR value IN ('"local"', '"kubeflow"')),
    -- a star stands for the rest of a name, where a part of it begins
    ADD CONSTRAINT images_is_a_list_of_names_in_full_or_up_to_a_star CHECK (name <> 'images'
        OR pg_catalog.jsonb_typeof(value) = 'array' AND NOT pg_catalog.jsonb_path_exists(value,
            'strict $[*] ? (@.type() != "string" || !(@ like_regex "^([*]|[a-z0-9][A-Za-z0-9._:/@-]*([/:@][*])?)$"))')),
    ADD CONSTRAINT limits_and_ttl_are_numbers_from_0 CHECK (name NOT IN ('bundle_limit', 'model_limit', 'default_ttl')
        OR CASE pg_catalog.jsonb_typeof(value) WHEN 'number' THEN value::numeric BETWEEN 0 AND 1e15 ELSE false END);
COMMENT ON TABLE kwdbml.settings IS 'settings of the deployment, written by admins: bundle_limit and model_limit (bytes), default_engine, default_ttl (seconds), images (that any job may ask for)';

CREATE OR REPLACE FUNCTION kwdbml._setting(setting text) RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(
        (SELECT s.value FROM kwdbml.settings s WHERE s.name = setting),
        CASE setting
            WHEN 'bundle_limit' THEN '134217728'::jsonb
            WHEN 'model_limit' THEN '4294967296'::jsonb
            WHEN 'default_engine' THEN '"local"'::jsonb
            WHEN 'default_ttl' THEN '0'::jsonb
            WHEN 'images' THEN '[]'::jsonb
        END);
END
$$;
COMMENT ON FUNCTION kwdbml._setting(text) IS 'a setting of the deployment, or its default';

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

-- The rows that 0.2.0 left, as the trigger below treats those of its dumps.
DO $$
DECLARE
    r kwdbml.runtime;
BEGIN
    FOR r IN SELECT * FROM kwdbml.runtime t WHERE kwdbml._known_engines(t.engines) <> t.engines LOOP
        RAISE WARNING 'kwdbml.runtime (%, %): engines was %', r.framework, r.runtime, r.engines
            USING HINT = 'kubeflow takes pull_policy, cpu and mem, and the rest meant nothing; an image is in the column image.';
    END LOOP;
    UPDATE kwdbml.runtime t SET engines = kwdbml._known_engines(t.engines) WHERE kwdbml._known_engines(t.engines) <> t.engines;
END
$$;
ALTER TABLE kwdbml.runtime
    ADD CONSTRAINT kubeflow_takes_a_pull_policy_cpu_and_mem CHECK (kwdbml._known_engines(engines) = engines);
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

-- Any text was a flavour's name, anything an amount of a scalar resource, and meant nothing: what waits is to run as it
-- would have run.
UPDATE kwdbml.job j SET settings = pg_catalog.jsonb_set(j.settings, '{flavour,name}', '"customFlavour"')
WHERE j.status = 'RUNNING' AND pg_catalog.jsonb_typeof(j.settings #> '{flavour,name}') = 'string';
UPDATE kwdbml.job j SET settings = j.settings #- '{flavour,scalarResources}'
WHERE j.status = 'RUNNING' AND j.settings #> '{flavour,scalarResources}' IS NOT NULL;

-- Where and on what a run may run, as admins allow it: what a job may ask for by name.

-- A named amount of everything, and the nodes that have it.
CREATE TABLE kwdbml.flavour (
    name text PRIMARY KEY
        CONSTRAINT another_name CHECK (name = pg_catalog.btrim(name) AND name NOT IN ('', 'customFlavour')),
    cpu text CONSTRAINT cpu_is_cores_like_2_or_500m CHECK (kwdbml._is_cpu(cpu)),
    mem text CONSTRAINT mem_is_bytes_like_512mi_or_4g CHECK (kwdbml._is_mem(mem)),
    scalar_resources jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT scalar_resources_are_amounts_by_name CHECK (
            pg_catalog.jsonb_typeof(scalar_resources) = 'object'
            AND NOT pg_catalog.jsonb_path_exists(scalar_resources,
                'strict $.* ? (@.type() != "string" || !(@ like_regex "^[0-9]{1,18}([kMGTPE]i?|Ki)?$"))')),
    node_selector jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT node_selector_is_labels_of_nodes CHECK (
            pg_catalog.jsonb_typeof(node_selector) = 'object'
            AND NOT pg_catalog.jsonb_path_exists(node_selector,
                'strict $.keyvalue() ? (!(@.key like_regex "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
                || @.value.type() != "string"
                || !(@.value like_regex "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"))', '{}', true)),
    tolerations jsonb NOT NULL DEFAULT '[]'
        CONSTRAINT tolerations_are_those_of_kubernetes CHECK (
            pg_catalog.jsonb_typeof(tolerations) = 'array'
            AND NOT pg_catalog.jsonb_path_exists(tolerations, 'strict $[*] ? (@.type() != "object")')
            AND NOT pg_catalog.jsonb_path_exists(tolerations, 'strict $[*].keyvalue() ? (
                !(@.key == "key" && @.value.type() == "string"
                      && @.value like_regex "^(([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
                  || @.key == "value" && @.value.type() == "string"
                      && @.value like_regex "^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"
                  || @.key == "operator" && (@.value == "Exists" || @.value == "Equal")
                  || @.key == "effect" && (@.value == "" || @.value == "NoSchedule" || @.value == "PreferNoSchedule" || @.value == "NoExecute")
                  || @.key == "tolerationSeconds" && @.value.type() == "number" && @.value.floor() == @.value))', '{}', true)
            -- what Exists has no value, only what Exists may be any key, and only who is there already has seconds
            AND NOT pg_catalog.jsonb_path_exists(tolerations, 'lax $[*] ? (
                @.operator == "Exists" && @.value != ""
                || !(@.operator == "Exists") && !(@.key != "")
                || exists (@.tolerationSeconds) && !(@.effect == "NoExecute"))', '{}', true)),
    description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE kwdbml.flavour IS 'what settings.flavour.name may be: amounts of resources, and the nodes that have them; written by admins';
COMMENT ON COLUMN kwdbml.flavour.node_selector IS 'labels of the nodes of a cluster; the local engine looks at neither these nor tolerations';

-- Not every volume of a cluster is everybody's: who asks names a row, and the row says which volume and who may.
CREATE TABLE kwdbml.file_system (
    name text PRIMARY KEY CONSTRAINT another_name CHECK (name = pg_catalog.btrim(name) AND name <> ''),
    claim text NOT NULL
        CONSTRAINT claim_is_a_volume_claims_name CHECK (claim ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    sub_path text NOT NULL DEFAULT ''
        CONSTRAINT sub_path_is_relative_without_dots CHECK (sub_path !~ '^/|(^|/)[.][.]?(/|$)|//|/$|[{]{2}'),
    roles name[] NOT NULL DEFAULT '{}'
        CONSTRAINT everyone_is_public CHECK (
            pg_catalog.array_position(roles, NULL) IS NULL AND NOT 'syspublic'::name = ANY (roles)),
    description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE kwdbml.file_system IS 'what settings.fs and extraFS may name: volumes that a run in a cluster sees; written by admins';
COMMENT ON COLUMN kwdbml.file_system.claim IS 'the persistent volume claim, in the namespace of the runs';
COMMENT ON COLUMN kwdbml.file_system.sub_path IS 'nothing outside this directory of the volume is shown';
COMMENT ON COLUMN kwdbml.file_system.roles IS 'who may use it, and those who have their rights; public: everyone; admins may always';

-- What a policy asks, as the caller.
CREATE FUNCTION kwdbml._may_use(who name, roles name[]) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN kwdbml._is_admin(who) OR EXISTS (SELECT FROM unnest(roles) AS r(grantee) WHERE kwdbml._has_role(who, r.grantee));
END
$$;
COMMENT ON FUNCTION kwdbml._may_use(name, name[]) IS 'whether who is an admin or has what is granted to one of the roles';

ALTER TABLE kwdbml.flavour ENABLE ROW LEVEL SECURITY;
ALTER TABLE kwdbml.file_system ENABLE ROW LEVEL SECURITY;
CREATE POLICY readable ON kwdbml.flavour FOR SELECT USING (true);
CREATE POLICY admin ON kwdbml.flavour TO kwdbml_admin USING (true);
CREATE POLICY usable ON kwdbml.file_system FOR SELECT USING (kwdbml._may_use(current_user, roles));
CREATE POLICY admin ON kwdbml.file_system TO kwdbml_admin USING (true);

SELECT pg_catalog.pg_extension_config_dump('kwdbml.flavour', '');
SELECT pg_catalog.pg_extension_config_dump('kwdbml.file_system', '');
