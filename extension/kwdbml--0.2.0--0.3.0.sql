-- Generated from sql/ by extension/build.py: edit there.
\echo Use "ALTER EXTENSION kwdbml UPDATE" to load this file. \quit

-- -------- sql/upgrades/0.2.0--0.3.0.sql
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
CREATE OR REPLACE FUNCTION kwdbml._is_cpu(amount text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amount ~ '^([0-9]{1,6}([.][0-9]{1,3})?|[0-9]{1,9}m)$' AND amount ~ '[1-9]';
COMMENT ON FUNCTION kwdbml._is_cpu(text) IS 'whether a text is an amount of cores, such as 2, 0.5 or 500m';

CREATE OR REPLACE FUNCTION kwdbml._is_mem(amount text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amount ~ '^([0-9]{1,18}|[0-9]{1,6}([.][0-9]{1,3})?[KkMmGgTt]i?)[Bb]?$' AND amount ~ '[1-9]';
COMMENT ON FUNCTION kwdbml._is_mem(text) IS 'whether a text is an amount of memory, such as 512Mi or 4G';

-- Of what is said of kubeflow, what is known. 0.2.0 took any object there, which meant nothing.
CREATE OR REPLACE FUNCTION kwdbml._known_engines(engines jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
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
CREATE OR REPLACE FUNCTION kwdbml._runtime_restored() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
CREATE OR REPLACE FUNCTION kwdbml._may_use(who name, roles name[]) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
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

-- -------- sql/functions/internal/_load.sql
-- How SQL reaches Python. PL/Python puts "plpy.Error: " before every message it raises, so nothing is raised there: the
-- answer says what went wrong, and PL/pgSQL raises it in our own words.

-- Contract: puts the server-side Python of this version on the path and its dispatcher into GD, once per backend.
-- SECURITY DEFINER because pg_config() tells ordinary roles nothing.
CREATE OR REPLACE FUNCTION kwdbml._load() RETURNS void LANGUAGE plpython3u
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
import sys
path = plpy.execute("SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'")[0]['setting'] + '/kwdbml/0.3.0'
if path not in sys.path: sys.path.insert(0, path)
try:
    from kwdbml import __version__ as found
    from kwdbml.plpy import run
    problem = None if found == '0.3.0' else f'this connection still runs kwdbml {found}: reconnect'
except ImportError as error:
    problem = f'the server-side Python of kwdbml 0.3.0 is missing or broken ({error}): run kwdbml extension install'
GD['kwdbml 0.3.0'] = run if not problem else lambda *a: ['error', '55000', problem, '', '']
$$;
COMMENT ON FUNCTION kwdbml._load() IS 'loads the server-side Python into this backend';

-- Contract: {ok, value as JSON} or {error, SQLSTATE, message, detail, hint}. function is one that kwdbml/plpy offers.
CREATE OR REPLACE FUNCTION kwdbml._python(function text, arguments jsonb, bundles bytea[]) RETURNS text[] LANGUAGE plpython3u AS $$
if 'kwdbml 0.3.0' not in GD: plpy.execute('SELECT kwdbml._load()')
return GD['kwdbml 0.3.0'](plpy, function, arguments, bundles)
$$;
COMMENT ON FUNCTION kwdbml._python(text, jsonb, bytea[]) IS 'the one PL/Python body behind all functions';

-- Contract: the value, or the error with its SQLSTATE, detail and hint.
-- Who calls it is LANGUAGE sql and inlined, where it can be: psql shows each PL/pgSQL function around as a line of CONTEXT.
CREATE OR REPLACE FUNCTION kwdbml._call(function text, arguments jsonb, bundles bytea[] DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    answer text[] := kwdbml._python(function, arguments, bundles);
BEGIN
    IF answer[1] = 'ok' THEN
        RETURN answer[2]::jsonb;
    ELSIF answer[4] <> '' AND answer[5] <> '' THEN
        RAISE EXCEPTION USING ERRCODE = answer[2], MESSAGE = answer[3], DETAIL = answer[4], HINT = answer[5];
    ELSIF answer[5] <> '' THEN
        RAISE EXCEPTION USING ERRCODE = answer[2], MESSAGE = answer[3], HINT = answer[5];
    ELSIF answer[4] <> '' THEN
        RAISE EXCEPTION USING ERRCODE = answer[2], MESSAGE = answer[3], DETAIL = answer[4];
    END IF;
    RAISE EXCEPTION USING ERRCODE = answer[2], MESSAGE = answer[3];
END
$$;
COMMENT ON FUNCTION kwdbml._call(text, jsonb, bytea[]) IS 'calls the server-side Python and raises its errors';

-- -------- sql/functions/internal/_no_such_job.sql
-- Contract: always 42704; one place for the words, which must not tell "not yours" from "not there".
CREATE OR REPLACE FUNCTION kwdbml._no_such_job(job_id uuid) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION 'no such job: %', job_id USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_jobs() lists your jobs.';
END
$$;
COMMENT ON FUNCTION kwdbml._no_such_job(uuid) IS 'raises 42704';

-- -------- sql/functions/internal/_written_here.sql
-- Contract: given the xmin of a row that the caller sees: whether the transaction that asks has written it. now() would
-- not do: two transactions can begin in the same microsecond.
CREATE OR REPLACE FUNCTION kwdbml._written_here(xmin xid) RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours bigint := pg_current_xact_id_if_assigned()::text::bigint;
    ahead bigint := (xmin::text::bigint - ours) & 4294967295;
BEGIN
    -- xmin has 32 bits: of the ids that end in them, the one nearest to ours; savepoints of ours have later ids
    IF ahead > 2147483647 THEN
        ahead := ahead - 4294967296;
    END IF;
    -- visible and still in progress: our own
    RETURN coalesce(ours + ahead > 2, false) AND coalesce(pg_xact_status((ours + ahead)::text::xid8) = 'in progress', false);
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;  -- "in the future": so old that the nearest is a wrong guess
END
$$;
COMMENT ON FUNCTION kwdbml._written_here(xid) IS 'whether a visible row was written by the transaction that asks';

-- -------- sql/functions/internal/columns.sql
-- What a column of a data set can be to a model. One place, asked at the call (as the caller) and again by the worker.

-- PL/pgSQL, because it is called per column, and keeps its plans: an SQL function that cannot be inlined is read and
-- planned anew at every call of the function around it.

-- Contract: the type under all domains; NULL for no type.
CREATE OR REPLACE FUNCTION kwdbml._base_type(type oid) RETURNS oid LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer oid := $1;
    kind "char";
    under oid;
BEGIN
    LOOP
        SELECT t.typtype, t.typbasetype INTO kind, under FROM pg_type t WHERE t.oid = answer;
        IF NOT FOUND OR kind <> 'd' THEN
            RETURN CASE WHEN kind IS NOT NULL THEN answer END;
        END IF;
        answer := under;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml._base_type(oid) IS 'the type under all domains';

-- Contract: STRING, INT or FLOAT for a column of this type, NULL where it cannot be a feature.
CREATE OR REPLACE FUNCTION kwdbml._feature_type(type oid) RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
BEGIN
    RETURN CASE
        WHEN b = ANY (ARRAY['bool', 'int2', 'int4', 'int8']::regtype[]::oid[]) THEN 'INT'
        WHEN b = ANY (ARRAY['numeric', 'float4', 'float8', 'date', 'timestamp', 'timestamptz', 'interval']::regtype[]::oid[])
            THEN 'FLOAT'
        WHEN b = ANY (ARRAY['text', 'varchar', 'bpchar', 'name', 'uuid']::regtype[]::oid[])
            OR (SELECT t.typtype = 'e' FROM pg_type t WHERE t.oid = b) THEN 'STRING'
        END;
END
$$;
COMMENT ON FUNCTION kwdbml._feature_type(oid) IS 'the feature type that a column type becomes; NULL when none';

-- Contract: (staged type, expression over %s) that turns a column into a feature of the wanted type; NULL when it
-- cannot be. Staged types are base types of PostgreSQL only: no code of a user runs where the worker names them. What
-- Arrow carries natively stays as it is, and the step converts it.
CREATE OR REPLACE FUNCTION kwdbml._feature_cast(type oid, wanted text, OUT staged text, OUT expression text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
    base text := (SELECT t.typname FROM pg_type t WHERE t.oid = b);
    own text := kwdbml._feature_type(b);
    is_text boolean := b = ANY (ARRAY['text', 'varchar', 'bpchar']::regtype[]::oid[]);
BEGIN
    staged := CASE wanted
        WHEN 'STRING' THEN CASE WHEN own IS NOT NULL THEN 'text' END
        WHEN 'BOOL' THEN CASE WHEN own = 'INT' THEN base WHEN is_text THEN 'bool' END
        WHEN 'INT' THEN CASE WHEN own = 'INT' THEN base
            WHEN is_text OR b = ANY (ARRAY['numeric', 'float4', 'float8']::regtype[]::oid[]) THEN 'int8' END
        WHEN 'FLOAT' THEN CASE WHEN own = 'INT' OR base IN ('float4', 'float8') THEN base
            WHEN is_text OR own = 'FLOAT' THEN 'float8' END
        END;
    expression := CASE
        WHEN b = 'interval'::regtype AND staged = 'float8' THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.interval)'
        WHEN b = 'timestamptz'::regtype AND staged = 'float8' THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.timestamptz)'
        WHEN b = ANY (ARRAY['date', 'timestamp']::regtype[]::oid[]) AND staged = 'float8'
            THEN 'pg_catalog.date_part(''epoch'', %s::pg_catalog.timestamp)'
        ELSE '%s::pg_catalog.' || staged
        END;
END
$$;
COMMENT ON FUNCTION kwdbml._feature_cast(oid, text) IS 'how a column becomes a feature: staged type and expression';

-- Contract: (staged type, expression over %s) that carries a column's exact value to the worker and back; NULL where
-- writing it back would run code of a user (composites, domains inside arrays, ranges made by users). What Arrow has no
-- exact type for travels as the bytes that COPY BINARY would carry.
CREATE OR REPLACE FUNCTION kwdbml._carried(type oid, OUT staged text, OUT expression text) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    b oid := kwdbml._base_type($1);
    native boolean := b = ANY (ARRAY['bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'text', 'bytea']::regtype[]::oid[]);
    ok boolean;
    sender text;
BEGIN
    IF native OR b = 'varchar'::regtype THEN
        staged := CASE WHEN native THEN (SELECT t.typname FROM pg_type t WHERE t.oid = b) ELSE 'text' END;
        expression := '%s::pg_catalog.' || quote_ident(staged);
        RETURN;
    END IF;
    SELECT (t.typtype IN ('b', 'e') OR t.typtype IN ('r', 'm') AND t.typnamespace = 'pg_catalog'::regnamespace)
           AND t.typsend <> 0
           AND (t.typelem = 0 OR t.typlen <> -1 OR e.typtype IN ('b', 'e')
                OR e.typtype IN ('r', 'm') AND e.typnamespace = 'pg_catalog'::regnamespace),
           (SELECT format('%I.%I', n.nspname, f.proname) FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
            WHERE f.oid = t.typsend)
    INTO ok, sender
    FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
    WHERE t.oid = b;
    IF ok THEN
        staged := 'bytea';
        expression := sender || '(%s)';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._carried(oid) IS 'how a column of the data set travels to the result table unchanged';

-- Contract: the columns of a result table [{name, type, oid, typmod}], where oid and typmod decide and type is for people: those of the data set with their own types, then one per
-- target, named as the target, or prediction, or prediction_<target>, whichever is free first.
CREATE OR REPLACE FUNCTION kwdbml._result_columns(data_columns jsonb, target jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb := '[]';
    names text[] := '{}';
    c jsonb;
    wanted text;
    made text;
    n integer;
BEGIN
    FOR c IN SELECT * FROM jsonb_array_elements(data_columns) LOOP
        names := names || (c ->> 'name');
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', c ->> 'name',
            'oid', kwdbml._base_type((c ->> 'oid')::oid)::bigint,
            'typmod', kwdbml._typmod((c ->> 'oid')::oid, (c ->> 'typmod')::int),
            'type', format_type(kwdbml._base_type((c ->> 'oid')::oid), kwdbml._typmod((c ->> 'oid')::oid, (c ->> 'typmod')::int))));
    END LOOP;
    FOR c IN SELECT * FROM jsonb_array_elements(target) LOOP
        wanted := c ->> 'name';
        IF wanted = ANY (names) THEN
            wanted := CASE WHEN jsonb_array_length(target) = 1 THEN 'prediction' ELSE left('prediction_' || wanted, 63) END;
        END IF;
        IF wanted = ANY (names) THEN
            wanted := left('prediction_' || (c ->> 'name'), 63);
        END IF;
        n := 1;
        WHILE wanted = ANY (names) LOOP
            n := n + 1;
            wanted := left('prediction_' || (c ->> 'name'), 58) || '_' || n;
        END LOOP;
        names := names || wanted;
        made := CASE c ->> 'type' WHEN 'FLOAT' THEN 'double precision' WHEN 'INT' THEN 'bigint' WHEN 'BOOL' THEN 'boolean' ELSE 'text' END;
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', wanted, 'type', made, 'oid', made::regtype::oid::bigint, 'typmod', -1));
    END LOOP;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._result_columns(jsonb, jsonb) IS 'the columns of the table that batch_predict writes';

-- Contract: the modifier of a column of a domain type is the domain's.
CREATE OR REPLACE FUNCTION kwdbml._typmod(type oid, typmod integer) RETURNS integer LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at oid := $1;
    answer integer := $2;
    t record;
BEGIN
    LOOP
        SELECT p.typtype, p.typbasetype, p.typtypmod INTO t FROM pg_type p WHERE p.oid = at;
        IF NOT FOUND OR t.typtype <> 'd' THEN
            RETURN CASE WHEN FOUND THEN answer END;
        END IF;
        at := t.typbasetype;
        answer := t.typtypmod;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml._typmod(oid, integer) IS 'the type modifier under all domains';

-- -------- sql/functions/internal/model_to_extend.sql
-- Contract: the model of that name, locked, to which a version may be added; made when it is new. next_version = 1 says
-- that it has none yet. 42710 when it is there and must not be or is not the creator's business, 42501 without CREATE
-- (and UPDATE, when the version is to be deployed), 22023 when it is another problem.
CREATE OR REPLACE FUNCTION kwdbml._model_to_extend(
    model_schema text, object text, description text, who name, problem_type text, features jsonb, target jsonb,
    may_exist boolean, deploy boolean)
RETURNS kwdbml.model LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    m kwdbml.model;
    shown text := model_schema || '.' || object;
    allowed boolean;
    differs text;
BEGIN
    INSERT INTO kwdbml.model AS b (schema, name, description, creator, problem_type, features, target)
    VALUES (model_schema, object, description, who, problem_type, features, target)
    ON CONFLICT DO NOTHING RETURNING b.* INTO m;
    IF FOUND THEN
        RETURN m;
    END IF;
    SELECT b.* INTO m FROM kwdbml.model b WHERE b.schema = model_schema AND b.name = object;
    -- who has no right neither locks it nor waits, and is refused also where it is granted just now: nobody goes on unlocked
    allowed := FOUND AND may_exist AND kwdbml._model_right(m.id, 'CREATE', who);
    IF allowed THEN
        SELECT b.* INTO m FROM kwdbml.model b WHERE b.id = m.id FOR UPDATE;
        PERFORM kwdbml._hold_grants('model', m.id, 'CREATE'), kwdbml._hold_grants('model', m.id, 'UPDATE');
    END IF;
    IF m.id IS NULL THEN
        RAISE EXCEPTION 'model % was removed meanwhile', shown USING ERRCODE = '40001', HINT = 'Try again.';
    ELSIF NOT may_exist THEN
        RAISE EXCEPTION 'model % already exists', shown
            USING ERRCODE = '42710', HINT = 'Pass new_version_if_exists => true, or choose another name.';
    ELSIF NOT allowed OR NOT kwdbml._model_right(m.id, 'CREATE', who) OR deploy AND NOT kwdbml._model_right(m.id, 'UPDATE', who) THEN
        RAISE EXCEPTION 'permission denied for model %', shown
            USING ERRCODE = '42501', HINT = 'A new version needs CREATE on the model, and UPDATE to be deployed.';
    END IF;
    differs := kwdbml._misfit(m, problem_type, features, target);
    IF differs <> '' THEN
        RAISE EXCEPTION 'the new version does not fit model %: %', shown, differs
            USING ERRCODE = '22023', HINT = 'A new version needs the model''s problem type, features and target (names, types, order).';
    END IF;
    RETURN m;
END
$$;
COMMENT ON FUNCTION kwdbml._model_to_extend(text, text, text, name, text, jsonb, jsonb, boolean, boolean) IS
    'the model to which a version is added, locked';
REVOKE ALL ON FUNCTION kwdbml._model_to_extend(text, text, text, name, text, jsonb, jsonb, boolean, boolean) FROM PUBLIC;

-- Contract: in what a version of such a problem differs from its model, in words; empty: in nothing.
CREATE OR REPLACE FUNCTION kwdbml._misfit(m kwdbml.model, problem_type text, features jsonb, target jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(string_agg(format('its %s: %s, the model''s: %s', d.what, left(d.given, 200), left(d.declared, 200)), '; '), '')
            FROM (VALUES (1, 'problem type', problem_type, m.problem_type), (2, 'features', features::text, m.features::text),
                         (3, 'target', target::text, m.target::text)) AS d(n, what, given, declared)
            WHERE d.given IS DISTINCT FROM d.declared);
END
$$;
COMMENT ON FUNCTION kwdbml._misfit(kwdbml.model, text, jsonb, jsonb) IS 'in what a version does not fit its model';
REVOKE ALL ON FUNCTION kwdbml._misfit(kwdbml.model, text, jsonb, jsonb) FROM PUBLIC;

-- Contract: the bytes of a bundle, in chunks, for a pipeline or for a version; 54000 above the deployment's limit.
CREATE OR REPLACE FUNCTION kwdbml._store_bundle(pipeline uuid, version uuid, bundle_kind text, bundle bytea) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    artefact uuid;
    chunk_size constant integer := 8388608;
BEGIN
    IF octet_length(bundle) > (kwdbml._setting('bundle_limit'))::bigint THEN
        RAISE EXCEPTION 'the bundle has % bytes, the limit is %', octet_length(bundle), kwdbml._setting('bundle_limit')
            USING ERRCODE = '54000', HINT = 'An admin can raise bundle_limit in kwdbml.settings.';
    END IF;
    INSERT INTO kwdbml.artefact (pipeline_id, model_version_id, kind, bytes, sha256)
    VALUES (pipeline, version, bundle_kind, octet_length(bundle), encode(sha256(bundle), 'hex'))
    RETURNING id INTO artefact;
    INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk)
    SELECT artefact, n, substring(bundle FROM n * chunk_size + 1 FOR chunk_size)
    FROM generate_series(0, greatest(octet_length(bundle) - 1, 0) / chunk_size) AS n;
END
$$;
COMMENT ON FUNCTION kwdbml._store_bundle(uuid, uuid, text, bytea) IS 'stores the bytes of a bundle';
REVOKE ALL ON FUNCTION kwdbml._store_bundle(uuid, uuid, text, bytea) FROM PUBLIC;

-- -------- sql/functions/internal/names.sql
-- Contract: (schema, object) of a model's or pipeline's name as the caller means it; 22004, 22023, 3F000, 42501.
CREATE OR REPLACE FUNCTION kwdbml._name(kind text, name text) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(SELECT pg_catalog.jsonb_array_elements_text(kwdbml._call('resolve', pg_catalog.jsonb_build_array(kind, name))));
END
$$;
COMMENT ON FUNCTION kwdbml._name(text, text) IS 'schema and object part of a model or pipeline name';

-- Contract: whether a model has this name, also one that the caller does not see: a name in a schema is taken or not, and
-- who wants to make something there learns it (docs/decisions/0008). SECURITY DEFINER functions cannot know their caller,
-- so it is the session's role that needs USAGE on the schema: the one it has set, else the one it came as.
CREATE OR REPLACE FUNCTION kwdbml._model_taken(model_schema text, model_name text) RETURNS boolean LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model m WHERE m.schema = model_schema AND m.name = model_name)
       AND coalesce(has_schema_privilege(who, to_regnamespace(quote_ident(model_schema)), 'USAGE'), false);
END
$$;
COMMENT ON FUNCTION kwdbml._model_taken(text, text) IS 'whether a model''s name is taken; false without USAGE on its schema';

CREATE OR REPLACE FUNCTION kwdbml._qualified(kind text, name text) RETURNS text LANGUAGE sql STABLE
RETURN (SELECT n[1] || '.' || n[2] FROM kwdbml._name(kind, name) AS n);
COMMENT ON FUNCTION kwdbml._qualified(text, text) IS 'a model or pipeline name as answers give it';

-- Contract: a model's version where a driver says that it is text; 22023 when it is no number.
CREATE OR REPLACE FUNCTION kwdbml._version(model_version text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN model_version::bigint;
EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range THEN
    RAISE EXCEPTION 'invalid model version "%"', pg_catalog.left(model_version, 200)
        USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest.';
END
$$;
COMMENT ON FUNCTION kwdbml._version(text) IS 'a model''s version given as text; 22023 when it is none';

CREATE OR REPLACE FUNCTION kwdbml._job_id(job_id text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF job_id IS NULL THEN
        RAISE EXCEPTION 'job_id is NULL' USING ERRCODE = '22004', HINT = 'Give the id that the submitting call returned.';
    END IF;
    RETURN job_id::uuid;
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION 'invalid job id "%"', job_id
        USING ERRCODE = '22023', HINT = 'A job id is a UUID, as kwdbml.show_jobs() shows it.';
END
$$;
COMMENT ON FUNCTION kwdbml._job_id(text) IS 'a job id given as text; 22023 when it is none';

-- -------- sql/functions/internal/placement.sql
-- What a job's settings ask for by name, found: asked at the call as the caller, and again when the job is claimed.

-- Contract: what the names in a job's settings mean on the engine (NULL: the default one) for a role: {flavour, NULL when
-- none is named; file_systems by name}. 42704 for what is not there or not the role's, 42501 for an image that nobody
-- allowed, 22023 for what the engine lacks. Of settings it trusts nothing but that they are an object.
CREATE OR REPLACE FUNCTION kwdbml._placement(settings jsonb, engine text, who name) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    flavour jsonb := kwdbml._flavour(settings #>> '{flavour,name}');
    chosen text := coalesce(engine, kwdbml._setting('default_engine') #>> '{}');
    named text[] := ARRAY(SELECT n #>> '{}' FROM jsonb_path_query(settings, 'lax $.fs.name') AS n
                          UNION SELECT n #>> '{}' FROM jsonb_path_query(settings, 'lax $.extraFS[*].name') AS n);
BEGIN
    IF chosen = 'kubeflow' THEN
        PERFORM kwdbml._check_image(settings ->> 'image'),
                kwdbml._check_scalar_resources(coalesce(flavour, settings -> 'flavour') -> 'scalarResources');
    ELSIF named <> '{}' THEN
        RAISE EXCEPTION 'engine "%" has no shared file systems', chosen
            USING ERRCODE = '22023', HINT = 'Leave fs and extraFS out, or add "engine": "kubeflow".';
    END IF;
    RETURN jsonb_build_object('flavour', flavour,
                              'file_systems', kwdbml._file_systems(named, who));
END
$$;
COMMENT ON FUNCTION kwdbml._placement(jsonb, text, name) IS 'what the names in a job''s settings mean';

-- Contract: a flavour as settings.flavour writes one, with its nodes; NULL where none is named, 42704 with the list where
-- it is not there.
CREATE OR REPLACE FUNCTION kwdbml._flavour(flavour_name text) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f kwdbml.flavour;
BEGIN
    IF coalesce(flavour_name, '') IN ('', 'customFlavour') THEN
        RETURN NULL;
    END IF;
    SELECT * INTO f FROM kwdbml.flavour b WHERE b.name = flavour_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such flavour: %', flavour_name USING ERRCODE = '42704', HINT = format(
            'Flavours: %s; cpu, mem and scalarResources count when the name is customFlavour or left out.',
            (SELECT coalesce(string_agg(l.name, ', '), 'none') FROM (SELECT b.name FROM kwdbml.flavour b ORDER BY 1 LIMIT 30) l));
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object('cpu', f.cpu, 'mem', f.mem, 'scalarResources', f.scalar_resources,
                                                'node_selector', f.node_selector, 'tolerations', f.tolerations));
END
$$;
COMMENT ON FUNCTION kwdbml._flavour(text) IS 'a flavour by its name';

-- Contract: nothing, when Kubeflow can give a run these: one kind, of a name that Kubernetes takes; 22023 for others.
CREATE OR REPLACE FUNCTION kwdbml._check_scalar_resources(resources jsonb) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named text[] := ARRAY(SELECT r ->> 'key' FROM jsonb_path_query(resources, 'lax $.keyvalue()', '{}', true) AS r
                          WHERE r -> 'value' NOT IN ('0', '"0"') ORDER BY 1);
BEGIN
    IF cardinality(named) > 1 THEN
        RAISE EXCEPTION 'engine "kubeflow" gives a run one kind of scalar resource, not %', array_to_string(named, ', ')
            USING ERRCODE = '22023', HINT = 'Keep one key of scalarResources.';
    ELSIF named[1] !~ '^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?|ephemeral-storage|hugepages-[0-9]+[KMG]i)$' THEN
        RAISE EXCEPTION 'Kubernetes has no scalar resource "%"', left(named[1], 200)
            USING ERRCODE = '22023', HINT = 'Name it as its nodes do, for example {"nvidia.com/gpu": 1}; cpu and mem are keys of flavour.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_scalar_resources(jsonb) IS 'whether a run in a cluster can have scalar resources';

-- Contract: {claim, sub_path} of each by its name; 42704, in the same words whether one is not there or not the role's.
CREATE OR REPLACE FUNCTION kwdbml._file_systems(named text[], who name) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb;
    missing text;
BEGIN
    SELECT coalesce(jsonb_object_agg(f.name, jsonb_build_object('claim', f.claim, 'sub_path', f.sub_path)), '{}') INTO answer
    FROM kwdbml.file_system f WHERE f.name = ANY (named) AND kwdbml._may_use(who, f.roles);
    SELECT n INTO missing FROM unnest(named) AS n WHERE NOT answer ? n ORDER BY n LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'no such file system: %', missing USING ERRCODE = '42704', HINT = format(
            'File systems that you may use: %s.',
            (SELECT coalesce(string_agg(l.name, ', '), 'none') FROM (
                SELECT f.name FROM kwdbml.file_system f WHERE kwdbml._may_use(who, f.roles) ORDER BY 1 LIMIT 30) l));
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._file_systems(text[], name) IS 'the volumes that file systems mean, by their names';

-- Contract: nothing, when a job may name this image: one that a runtime has or that the setting images allows; NULL is no
-- image. 22023 for what is no name of one, 42501 for others: an image is code, and a cluster may fetch what it likes.
CREATE OR REPLACE FUNCTION kwdbml._check_image(image text) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed jsonb := kwdbml._setting('images');
BEGIN
    IF image !~ '^[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$' OR image ~ '[.][.]' THEN
        RAISE EXCEPTION '"%" is no name of an image', left(image, 200)
            USING ERRCODE = '22023', HINT = 'For example registry.example.org/ml/runtime:1.';
    ELSIF image IS NULL
       OR EXISTS (SELECT FROM kwdbml.runtime r WHERE r.image = $1)
       OR EXISTS (SELECT FROM jsonb_array_elements_text(allowed) AS a(pattern)
                  WHERE pattern = image OR pattern LIKE '%*' AND starts_with(image, left(pattern, -1))
                    -- python:* is any tag of python: in python:5000/x:1 the colon is one before a port
                    AND (pattern !~ '[:@][*]$' OR substr(image, length(pattern)) !~ '/')) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'image "%" is not allowed', image USING ERRCODE = '42501', HINT = format(
        'Leave it out for the image of the runtime. Allowed by the setting images: %s.',
        (SELECT coalesce(string_agg(a.pattern, ', '), 'none') FROM jsonb_array_elements_text(allowed) AS a(pattern)));
END
$$;
COMMENT ON FUNCTION kwdbml._check_image(text) IS 'whether a job may name an image';

-- -------- sql/functions/internal/registry.sql
-- What the registry's functions share.

-- Contract: the id of a model of which the caller has some privilege; 42704 in the same words whether it is not there or
-- not the caller's.
CREATE OR REPLACE FUNCTION kwdbml._model_id(model_name text) RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[] := kwdbml._name('model', model_name);
    answer uuid;
BEGIN
    SELECT m.id INTO answer FROM kwdbml.model m WHERE m.schema = parts[1] AND m.name = parts[2];
    IF answer IS NULL THEN
        RAISE EXCEPTION 'no such model: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_models() lists those you may see.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._model_id(text) IS 'the id of a model by its name';

CREATE OR REPLACE FUNCTION kwdbml._pipeline_id(pipeline_name text) RETURNS uuid LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[] := kwdbml._name('training pipeline', pipeline_name);
    answer uuid;
BEGIN
    SELECT p.id INTO answer FROM kwdbml.pipeline p WHERE p.schema = parts[1] AND p.name = parts[2];
    IF answer IS NULL THEN
        RAISE EXCEPTION 'no such training pipeline: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._pipeline_id(text) IS 'the id of a training pipeline by its name';

-- Contract: a row of kwdbml.request, done; its answer. Runs as the caller, whom the row shows.
CREATE OR REPLACE FUNCTION kwdbml._ask(kind text, arguments jsonb, bundles bytea[] DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told jsonb;
BEGIN
    INSERT INTO kwdbml.request (kind, arguments, bundles) VALUES (kind, arguments, bundles) RETURNING answer INTO told;
    RETURN told;
END
$$;
COMMENT ON FUNCTION kwdbml._ask(text, jsonb, bytea[]) IS 'asks the registry to do something';

-- Contract: the model, locked: whoever changes its versions comes one after the other. 42704 to those who have nothing
-- on it, 42501 to those who lack the privilege.
CREATE OR REPLACE FUNCTION kwdbml._model_locked(model uuid, wanted text, who name) RETURNS kwdbml.model LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
BEGIN
    IF kwdbml._model_right(model, wanted, who) THEN
        SELECT * INTO m FROM kwdbml.model b WHERE b.id = model FOR UPDATE;
        PERFORM kwdbml._hold_grants('model', model, wanted);
        IF kwdbml._model_right(model, wanted, who) THEN  -- still, after waiting
            RETURN m;
        END IF;
    END IF;
    SELECT * INTO m FROM kwdbml.model b WHERE b.id = model;
    IF NOT FOUND OR NOT kwdbml._has_any('model', model, who) THEN
        RAISE EXCEPTION 'no such model' USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    END IF;
    RAISE EXCEPTION 'permission denied for model %.%', m.schema, m.name
        USING ERRCODE = '42501', HINT = format('You need %s on it; its creator can grant that.', wanted);
END
$$;
COMMENT ON FUNCTION kwdbml._model_locked(uuid, text, name) IS 'a model that who may change, locked';

-- Contract: the version of that number, 0 the newest; 42704 when there is none.
CREATE OR REPLACE FUNCTION kwdbml._version_of(m kwdbml.model, wanted bigint) RETURNS kwdbml.model_version LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v kwdbml.model_version;
BEGIN
    SELECT * INTO v FROM kwdbml.model_version b
    WHERE b.model_id = m.id AND (b.version = wanted OR wanted = 0) ORDER BY b.version DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model %.% has no version %', m.schema, m.name, wanted
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_model(name) lists its versions; 0 is the newest.';
    END IF;
    RETURN v;
END
$$;
COMMENT ON FUNCTION kwdbml._version_of(kwdbml.model, bigint) IS 'a version of a model by its number';

-- Contract: a version's number as an argument; 22004 and 22023.
CREATE OR REPLACE FUNCTION kwdbml._given_version(model_version bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF model_version IS NULL THEN
        RAISE EXCEPTION 'model_version is NULL' USING ERRCODE = '22004', HINT = 'Give 1, 2, 3 …, or 0 for the newest.';
    ELSIF model_version < 0 THEN
        RAISE EXCEPTION 'invalid model version %', model_version
            USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest.';
    END IF;
    RETURN model_version;
END
$$;
COMMENT ON FUNCTION kwdbml._given_version(bigint) IS 'checks the number of a version';

-- Contract: id, number and algorithm of a version (NULL: the active one, 0: the newest), which whoever may use the model
-- needs, also without SELECT on it.
CREATE OR REPLACE FUNCTION kwdbml._usable_version(model uuid, wanted bigint, OUT id uuid, OUT version integer, OUT algorithm text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    SELECT v.id, v.version, v.algorithm INTO id, version, algorithm FROM kwdbml._usable v
    WHERE v.model_id = $1 AND (v.version = $2 OR $2 = 0 OR $2 IS NULL AND v.active) ORDER BY v.version DESC LIMIT 1;
END
$$;
COMMENT ON FUNCTION kwdbml._usable_version(uuid, bigint) IS 'the version of a model that a number means';

-- -------- sql/functions/internal/result_table.sql
-- Contract of _check_result_table: NULL when the table must be made, its oid when it can be written; else the error.
-- Catalogue only, so that it holds for the caller at the call and for the creator, in the worker's transaction, at the end.
CREATE OR REPLACE FUNCTION kwdbml._check_result_table(table_schema text, table_name text, columns jsonb, action text, who name)
RETURNS oid LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text := format('%I.%I', table_schema, table_name);
    rel pg_class;
    problem text;
    home oid := to_regnamespace(quote_ident(table_schema));
BEGIN
    IF table_schema ~ '^pg_temp(_|$)' THEN
        RAISE EXCEPTION 'result table % would be a temporary table, which only its session sees', shown
            USING ERRCODE = '22023', HINT = 'A worker writes the rows later: name a table in an ordinary schema, such as public.t.';
    END IF;
    IF home IS NULL THEN
        RAISE EXCEPTION 'schema "%" does not exist', table_schema USING ERRCODE = '3F000', HINT = 'Create it, or name another one.';
    END IF;
    IF NOT has_schema_privilege(who, home, 'USAGE') THEN
        RAISE EXCEPTION 'permission denied for schema %', table_schema USING ERRCODE = '42501', HINT = 'You need USAGE on it.';
    END IF;
    SELECT * INTO rel FROM pg_class c WHERE c.relnamespace = home AND c.relname = table_name;
    IF NOT FOUND THEN
        IF NOT has_schema_privilege(who, home, 'CREATE') THEN
            RAISE EXCEPTION 'permission denied to create % in schema %', shown, table_schema
                USING ERRCODE = '42501', HINT = 'You need CREATE on the schema, or an existing table that you may write.';
        END IF;
        RETURN NULL;
    END IF;
    IF action = 'error' THEN
        RAISE EXCEPTION 'result table % already exists', shown
            USING ERRCODE = '42P07', HINT = 'Use action_if_exists replace or append, or name another table.';
    END IF;
    IF NOT has_table_privilege(who, rel.oid, 'INSERT')
       OR action = 'replace' AND NOT has_table_privilege(who, rel.oid, 'DELETE') THEN
        RAISE EXCEPTION 'permission denied for table %', shown
            USING ERRCODE = '42501', HINT = 'You need INSERT on it, and DELETE to replace its rows.';
    END IF;
    problem := kwdbml._runs_code_on_insert(rel.oid);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'cannot write to %: it %', shown, problem
            USING ERRCODE = '42809', HINT = 'Predict into a new table, then INSERT … SELECT from it as yourself.';
    END IF;
    problem := kwdbml._shape_difference(rel.oid, columns);
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'result table % has another shape: %', shown, problem
            USING ERRCODE = '42804', HINT = 'Predict into a new table, then INSERT … SELECT from it as yourself.';
    END IF;
    RETURN rel.oid;
END
$$;
COMMENT ON FUNCTION kwdbml._check_result_table(text, text, jsonb, text, name) IS
    'whether a role may have its predictions written there without any code of a user running';

-- Contract: (schema, name) of a result table as a job's row names it, both quoted where needed; 22023 for anything else.
CREATE OR REPLACE FUNCTION kwdbml._result_place(result_table text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[];
BEGIN
    BEGIN
        parts := parse_ident(result_table);
    EXCEPTION WHEN invalid_parameter_value THEN
        NULL;  -- it would name the value, but no cure
    END;
    IF array_length(parts, 1) = 2 THEN
        RETURN parts;
    END IF;
    RAISE EXCEPTION 'invalid result table "%"', coalesce(result_table, 'NULL') USING ERRCODE = '22023', HINT = 'Use kwdbml.batch_predict.';
END
$$;
COMMENT ON FUNCTION kwdbml._result_place(text) IS 'schema and name of the result table of a job';

-- Contract: why a plain INSERT into the table would run code that somebody wrote, or be more than an INSERT; NULL: it would not.
CREATE OR REPLACE FUNCTION kwdbml._runs_code_on_insert(rel oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        WHEN c.relkind <> 'r' THEN 'is not an ordinary table'
        WHEN c.relpersistence = 't' THEN 'is a temporary table, which only its session sees'
        WHEN c.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid)
            THEN 'is part of an inheritance tree'
        WHEN c.relrowsecurity THEN 'has row-level security'
        WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid) THEN 'has triggers or foreign keys'
        WHEN EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid) THEN 'has rules'
        WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'u', 'n'))
            THEN 'has CHECK or exclusion constraints'
        WHEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
            THEN 'has expression or partial indexes'
        WHEN EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL)
            THEN 'has statistics on expressions'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND (a.attgenerated <> '' OR a.attidentity <> '')) THEN 'has generated or identity columns'
        WHEN EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND (t.typtype = 'd' OR (kwdbml._carried(a.atttypid)).staged IS NULL))
            THEN 'has columns of domain or composite types'
        END
    FROM pg_class c WHERE c.oid = rel;
END;
COMMENT ON FUNCTION kwdbml._runs_code_on_insert(oid) IS 'why an INSERT into a table would run somebody''s code; NULL when it would not';

-- Contract: the first difference between a table's columns and the wanted ones (by name, any order), or NULL. Types are
-- compared by OID: a type's name can be given to another one at any moment.
CREATE OR REPLACE FUNCTION kwdbml._shape_difference(rel oid, columns jsonb) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        WHEN have.name IS NULL THEN format('it lacks column %I %s', want.name, want.type)
        WHEN want.name IS NULL THEN format('it has a further column %I', have.name)
        ELSE format('column %I is %s, not %s', have.name, have.type, want.type) END
    FROM (SELECT a.attname::text AS name, a.atttypid AS oid, a.atttypmod AS typmod, format_type(a.atttypid, a.atttypmod) AS type
          FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped) have
    FULL JOIN jsonb_to_recordset(columns) AS want(name text, type text, oid oid, typmod integer) ON want.name = have.name
    WHERE (have.oid, have.typmod) IS DISTINCT FROM (want.oid, want.typmod)
    ORDER BY 1 LIMIT 1;
END;
COMMENT ON FUNCTION kwdbml._shape_difference(oid, jsonb) IS 'how a table differs from the wanted columns';

-- -------- sql/functions/jobs/batch_predict.sql
-- requires: _load names
-- Contract: the new job's id. Needs PREDICT on the model, SELECT on the data (and on a named pipeline), and the right to
-- create or write the result table. All rows land in the transaction that makes the job SUCCEEDED, or none do.
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(
    pipeline_name text, model_name text, model_version bigint, batch_data text, result_table text,
    action_if_exists text, settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('batch_predict', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, batch_data, result_table, action_if_exists, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, bigint, text, text, text, jsonb) IS
    'submits a BATCH_PREDICT job: the data and a prediction column go to result_table; action_if_exists: replace, append or error';
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(
    pipeline_name text, model_name text, model_version bigint, batch_data text, result_table text,
    action_if_exists text, settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('batch_predict', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, batch_data, result_table, action_if_exists, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, bigint, text, text, text, text) IS 'batch_predict with settings as text';
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(
    model_name text, model_version bigint, batch_data text, result_table text, action_if_exists text,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict('', $1, $2, $3, $4, $5, $6);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, bigint, text, text, text, jsonb) IS 'batch_predict without a pipeline';
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(
    model_name text, model_version bigint, batch_data text, result_table text, action_if_exists text, settings text)
RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict('', $1, $2, $3, $4, $5, $6);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, bigint, text, text, text, text) IS
    'batch_predict without a pipeline, with settings as text';
-- Six arguments without types: the second tells which form it is. Unnamed, so that named notation means the forms above.
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(text, text, text, text, text, text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF $2 IS NULL OR $2 ~ '^\s*\d+\s*$' THEN
        RETURN kwdbml.batch_predict(''::text, $1, kwdbml._version($2), $3, $4, $5, $6);
    END IF;
    RETURN kwdbml.batch_predict($1, $2, kwdbml._version($3), $4, $5, $6, '{}'::jsonb);
END
$$;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text, text) IS
    'batch_predict with untyped arguments: without a pipeline when the second is a version, else without settings';
-- The version as text, where a driver says that it is text.
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(text, text, text, text, text, text, text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict($1, $2, kwdbml._version($3), $4, $5, $6, $7);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text, text, text) IS 'batch_predict, the version as text';
CREATE OR REPLACE FUNCTION kwdbml.batch_predict(text, text, text, text, text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.batch_predict(''::text, $1, kwdbml._version($2), $3, $4, $5, '{}'::jsonb);
END;
COMMENT ON FUNCTION kwdbml.batch_predict(text, text, text, text, text) IS 'batch_predict without a pipeline, the version as text';

-- -------- sql/functions/jobs/cancel_job.sql
-- Contract: RUNNING → CANCELED for good, once the caller commits; 42704 for a stranger, 55000 when it has ended.
CREATE OR REPLACE FUNCTION kwdbml.cancel_job(job_id uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found_status text;
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    UPDATE kwdbml.job j SET status = 'CANCELED' WHERE j.id = job_id AND j.status OPERATOR(pg_catalog.=) 'RUNNING';
    IF NOT FOUND THEN
        SELECT j.status INTO found_status FROM kwdbml.job j WHERE j.id = job_id;
        IF found_status IS NULL THEN
            PERFORM kwdbml._no_such_job(job_id);
        END IF;
        RAISE EXCEPTION 'job % is %, not RUNNING', job_id, found_status
            USING ERRCODE = '55000', HINT = 'Only a running job can be canceled.';
    END IF;
    RETURN job_id::text;
END
$$;
COMMENT ON FUNCTION kwdbml.cancel_job(uuid) IS 'cancels a running job of yours (an admin: anybody''s): nothing of it can land any more';
CREATE OR REPLACE FUNCTION kwdbml.cancel_job(job_id text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.cancel_job(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.cancel_job(text) IS 'cancels a running job of yours (an admin: anybody''s): nothing of it can land any more';

-- -------- sql/functions/jobs/evaluate_model.sql
-- requires: _load
-- Contract: the new job's id. Needs EVALUATE on the model, SELECT on a named pipeline and on the data.
CREATE OR REPLACE FUNCTION kwdbml.evaluate_model(
    pipeline_name text, model_name text, model_version bigint, evaluate_data text, objectives text,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('evaluate_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, evaluate_data, objectives, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.evaluate_model(text, text, bigint, text, text, jsonb) IS
    'submits an EVALUATE job: version NULL is the active one, 0 the newest; objectives are metric names separated by commas';
CREATE OR REPLACE FUNCTION kwdbml.evaluate_model(
    pipeline_name text, model_name text, model_version bigint, evaluate_data text, objectives text, settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('evaluate_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, model_version, evaluate_data, objectives, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.evaluate_model(text, text, bigint, text, text, text) IS 'evaluate_model with settings as text';

-- -------- sql/functions/jobs/job_logs.sql
CREATE OR REPLACE FUNCTION kwdbml._check_job(job_id uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    IF NOT EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id) THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION kwdbml._check_job(uuid) IS 'true when the caller may see the job, else 42704';

-- Contract: what the job printed, in order, also while it runs. Lines of a second attempt count from 1,000,000,001 on.
CREATE OR REPLACE FUNCTION kwdbml.job_logs(job_id uuid) RETURNS SETOF kwdbml.log_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT (l.attempt - 1) * 1000000000::bigint + l.seq, l.at, l.step, l.stream, l.line
    FROM kwdbml.job_log l
    -- the sub-select keeps the planner from seeing that NULL equals nothing, and from not asking
    WHERE kwdbml._check_job($1) AND l.job_id = (SELECT $1)
    ORDER BY l.attempt, l.seq;
END;
COMMENT ON FUNCTION kwdbml.job_logs(uuid) IS 'what a job printed, line by line, readable while it runs';
CREATE OR REPLACE FUNCTION kwdbml.job_logs(job_id text) RETURNS SETOF kwdbml.log_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.job_logs(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.job_logs(text) IS 'what a job printed, line by line, readable while it runs';

-- -------- sql/functions/jobs/remove_job.sql
-- Contract: admins only (42501 before any look-up); a running job is canceled first and what runs for it is cleaned
-- up by a worker; models it made stay.
CREATE OR REPLACE FUNCTION kwdbml.remove_job(job_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT kwdbml._is_admin(current_user) THEN
        RAISE EXCEPTION 'permission denied to remove jobs'
            USING ERRCODE = '42501', HINT = 'Only an admin (a member of kwdbml_admin) may. To stop a job of yours: kwdbml.cancel_job(id).';
    END IF;
    PERFORM kwdbml._job_id(job_id::text);
    UPDATE kwdbml.job j SET status = 'CANCELED' WHERE j.id = job_id AND j.status OPERATOR(pg_catalog.=) 'RUNNING';
    DELETE FROM kwdbml.job j WHERE j.id = job_id;
    IF NOT FOUND THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    RETURN job_id::text;
END
$$;
COMMENT ON FUNCTION kwdbml.remove_job(uuid) IS 'removes a job and all traces of it but the models it made; admins only';
CREATE OR REPLACE FUNCTION kwdbml.remove_job(job_id text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- the right first: a stranger learns nothing, not even that the id is malformed
    IF kwdbml._is_admin(current_user) THEN
        RETURN kwdbml.remove_job(kwdbml._job_id(job_id));
    END IF;
    RETURN kwdbml.remove_job(NULL::uuid);
END
$$;
COMMENT ON FUNCTION kwdbml.remove_job(text) IS 'removes a job and all traces of it but the models it made; admins only';

-- -------- sql/functions/jobs/show_jobs.sql
-- requires: names

CREATE OR REPLACE FUNCTION kwdbml._no_filter(wanted text[]) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN wanted IS NULL OR '*' = ANY (wanted);
COMMENT ON FUNCTION kwdbml._no_filter(text[]) IS 'whether a list of types or statuses filters nothing';

-- Contract: the words of a list given as text, '{TRAIN, EVALUATE}'; 22023 when it is none.
CREATE OR REPLACE FUNCTION kwdbml._word_list(list text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN list::text[];
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION 'invalid list "%"', pg_catalog.left(list, 200)
        USING ERRCODE = '22023', HINT = 'A list is an array of text: ARRAY[''TRAIN'', ''EVALUATE''] or ''{TRAIN, EVALUATE}''.';
END
$$;
COMMENT ON FUNCTION kwdbml._word_list(text) IS 'a list of job types or statuses given as text';

-- Contract: the values in upper case; 22023 that lists the valid ones.
CREATE OR REPLACE FUNCTION kwdbml._valid_words(what text, wanted text[], valid text[]) RETURNS text[] LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    word text;
BEGIN
    FOREACH word IN ARRAY coalesce(wanted, '{}') LOOP
        IF word IS NULL OR upper(btrim(word)) <> ALL (array_append(valid, '*')) THEN
            RAISE EXCEPTION 'unknown job % "%"', what, coalesce(word, 'NULL')
                USING ERRCODE = '22023', HINT = 'Valid: ' || array_to_string(valid, ', ') || ', or * for all.';
        END IF;
    END LOOP;
    RETURN (SELECT array_agg(upper(btrim(w))) FROM unnest(wanted) AS w);
END
$$;
COMMENT ON FUNCTION kwdbml._valid_words(text, text[], text[]) IS 'checks a list of job types or statuses';

CREATE OR REPLACE FUNCTION kwdbml._job_types(wanted text[]) RETURNS kwdbml.job_type[] LANGUAGE sql STABLE
RETURN kwdbml._valid_words('type', wanted, pg_catalog.enum_range(NULL::kwdbml.job_type)::text[])::kwdbml.job_type[];
COMMENT ON FUNCTION kwdbml._job_types(text[]) IS 'job types from text; 22023 for an unknown one';
CREATE OR REPLACE FUNCTION kwdbml._job_statuses(wanted text[]) RETURNS kwdbml.job_status[] LANGUAGE sql STABLE
RETURN kwdbml._valid_words('status', wanted, pg_catalog.enum_range(NULL::kwdbml.job_status)::text[])::kwdbml.job_status[];
COMMENT ON FUNCTION kwdbml._job_statuses(text[]) IS 'job statuses from text; 22023 for an unknown one';

-- Contract: true, or the error of the first bad argument. A one-time filter in show_jobs, so that it also speaks
-- when there is no row to filter.
CREATE OR REPLACE FUNCTION kwdbml._check_job_filter(model_name text, model_version bigint, types text[], statuses text[])
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM kwdbml._valid_words('type', types, pg_catalog.enum_range(NULL::kwdbml.job_type)::text[]);
    PERFORM kwdbml._valid_words('status', statuses, pg_catalog.enum_range(NULL::kwdbml.job_status)::text[]);
    IF model_version < 0 THEN
        RAISE EXCEPTION 'invalid model version %', model_version
            USING ERRCODE = '22023', HINT = 'Versions are 1, 2, 3 …; 0 is the newest; leave the version out for all.';
    ELSIF model_version = 0 AND model_name IS NULL THEN
        RAISE EXCEPTION 'model version 0 is the newest of a model, and no model is named'
            USING ERRCODE = '22023', HINT = 'Name the model, or leave the version out.';
    END IF;
    RETURN model_name IS NULL OR kwdbml._qualified('model', model_name) IS NOT NULL;
END
$$;
COMMENT ON FUNCTION kwdbml._check_job_filter(text, bigint, text[], text[]) IS 'checks the arguments of show_jobs';

-- Contract: the number of the version that is meant: 0 is the newest of a model that the caller sees. STABLE and PL/pgSQL,
-- which keeps its plan: asked once per call of show_jobs, and only when a version is given.
CREATE OR REPLACE FUNCTION kwdbml._wanted_version(model_name text, model_version bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    parts text[];
BEGIN
    IF model_version <> 0 OR model_name IS NULL OR model_name = '*' THEN
        RETURN model_version;
    END IF;
    parts := kwdbml._name('model', model_name);
    RETURN (SELECT v.version FROM kwdbml.model m, kwdbml._usable_version(m.id, 0) v
            WHERE m.schema = parts[1] AND m.name = parts[2]);
END
$$;
COMMENT ON FUNCTION kwdbml._wanted_version(text, bigint) IS 'a version''s number, where 0 means the newest';

-- Contract: the caller's jobs (an admin's: all) that pass the filters, newest first. Inlinable: LANGUAGE sql, STABLE,
-- SECURITY INVOKER, no SET, so that LIMIT and WHERE of the outer query reach the indexes. A lone untyped list
-- arrives as the name '{RUNNING}': it means the statuses.
CREATE OR REPLACE FUNCTION kwdbml.show_jobs(
    model_name text DEFAULT NULL, model_version bigint DEFAULT NULL, job_type text[] DEFAULT NULL, job_status text[] DEFAULT NULL)
RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT j.id::text, j.type::text, j.status::text, j.pipeline_name, j.model_name, j.model_version, j.creator::text,
           j.created, j.finished, j.settings, j.result, j.error
    FROM kwdbml.job j
    WHERE (($1 IS NULL OR $1 = '*') AND $2 IS NULL AND $3 IS NULL AND $4 IS NULL
           OR kwdbml._check_job_filter(
                CASE WHEN $1 <> '*' AND pg_catalog.left($1, 1) <> '{' THEN $1 END, $2, $3,
                CASE WHEN pg_catalog.left($1, 1) = '{' THEN kwdbml._word_list($1) ELSE $4 END))
      AND ($1 IS NULL OR $1 = '*' OR pg_catalog.left($1, 1) = '{'
           OR j.model_name = (SELECT kwdbml._qualified('model', $1)))
      AND ($2 IS NULL OR j.model_version = (SELECT kwdbml._wanted_version($1, $2)))
      AND (kwdbml._no_filter($3) OR j.type = ANY ((SELECT kwdbml._job_types($3))::kwdbml.job_type[]))
      AND (kwdbml._no_filter(CASE WHEN pg_catalog.left($1, 1) = '{' THEN $1::text[] ELSE $4 END)
           OR j.status = ANY ((SELECT kwdbml._job_statuses(
                CASE WHEN pg_catalog.left($1, 1) = '{' THEN $1::text[] ELSE $4 END))::kwdbml.job_status[]))
    ORDER BY j.created DESC;
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, bigint, text[], text[]) IS
    'your jobs (an admin''s: all), newest first; NULL, ''*'' or leaving out means no filter';

-- Without argument names, so that named notation always means the full signature.
CREATE OR REPLACE FUNCTION kwdbml.show_jobs(text, text[], text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs($1, NULL::bigint, $2, $3);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, text[], text[]) IS 'show_jobs(model_name, job_type, job_status)';
CREATE OR REPLACE FUNCTION kwdbml.show_jobs(text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs(NULL::text, NULL::bigint, NULL::text[], $1);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text[]) IS 'show_jobs(job_status)';
CREATE OR REPLACE FUNCTION kwdbml.show_jobs(text, text, text[]) RETURNS SETOF kwdbml.job_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_jobs(
        $1,
        CASE WHEN $2 ~ '^\s*-?\d+\s*$' THEN kwdbml._version($2) END,
        CASE WHEN $2 IS NULL OR $2 ~ '^\s*-?\d+\s*$' THEN $3 ELSE kwdbml._word_list($2) END,
        CASE WHEN $2 IS NULL OR $2 ~ '^\s*-?\d+\s*$' THEN NULL ELSE $3 END);
END;
COMMENT ON FUNCTION kwdbml.show_jobs(text, text, text[]) IS
    'show_jobs with untyped arguments: the second is a version when it is digits or NULL, else a list of job types';

-- -------- sql/functions/jobs/show_job.sql
-- requires: show_jobs
-- Contract: one row, or 42704 in the same words whether the job does not exist or is not yours.
-- VOLATILE, or it would not see the job in show_job(train_model(…)): a stable function looks through the snapshot that the
-- statement began with.
CREATE OR REPLACE FUNCTION kwdbml.show_job(job_id uuid) RETURNS SETOF kwdbml.job_row LANGUAGE plpgsql VOLATILE ROWS 1 AS $$
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    RETURN QUERY
        SELECT j.id::text, j.type::text, j.status::text, j.pipeline_name, j.model_name, j.model_version,
               j.creator::text, j.created, j.finished, j.settings, j.result, j.error
        FROM kwdbml.job j WHERE j.id = job_id;
    IF NOT FOUND THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.show_job(uuid) IS 'one of your jobs (an admin''s: any)';
CREATE OR REPLACE FUNCTION kwdbml.show_job(job_id text) RETURNS SETOF kwdbml.job_row LANGUAGE sql VOLATILE ROWS 1
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_job(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.show_job(text) IS 'one of your jobs (an admin''s: any)';

-- -------- sql/functions/jobs/train_model.sql
-- requires: _load
-- Contract: the new job's id. Needs TRAIN on the pipeline and SELECT on the data; both are checked again when it runs.
CREATE OR REPLACE FUNCTION kwdbml.train_model(
    pipeline_name text, model_name text, train_data text, new_version_if_exists boolean, immediately_deploy boolean,
    settings jsonb DEFAULT '{}')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('train_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, train_data, new_version_if_exists, immediately_deploy, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.train_model(text, text, text, boolean, boolean, jsonb) IS
    'submits a TRAIN job: train_data is a relation or one SELECT; answers the job''s id; the job starts when you commit';
CREATE OR REPLACE FUNCTION kwdbml.train_model(
    pipeline_name text, model_name text, train_data text, new_version_if_exists boolean, immediately_deploy boolean,
    settings text)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('train_model', pg_catalog.jsonb_build_array(pipeline_name, model_name, train_data, new_version_if_exists, immediately_deploy, settings)) #>> '{}';
COMMENT ON FUNCTION kwdbml.train_model(text, text, text, boolean, boolean, text) IS 'train_model with settings as text';

-- -------- sql/functions/jobs/wait_for_job.sql
-- Contract: commits; possible says whether the caller's CALL stood outside a transaction block. PL/Python, because
-- PL/pgSQL can neither ask nor catch what its COMMIT raises.
CREATE OR REPLACE PROCEDURE kwdbml._commit(INOUT possible boolean) LANGUAGE plpython3u AS $$
try:
    plpy.commit()
except plpy.SPIError:
    return (False,)
return (True,)
$$;
COMMENT ON PROCEDURE kwdbml._commit(boolean) IS 'commits, or says that it cannot';

-- Contract: like wait_job, but commits between looks, so that it holds no snapshot. Not in a transaction block (25001).
-- Not SECURITY DEFINER and no SET clause: either would forbid the COMMIT.
CREATE OR REPLACE PROCEDURE kwdbml.wait_for_job(job_id uuid, timeout interval DEFAULT NULL, INOUT status text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    give_up timestamptz := pg_catalog.clock_timestamp() + timeout;
    pause double precision := 0.02;
    possible boolean;
BEGIN
    CALL kwdbml._commit(possible);
    IF NOT possible THEN
        RAISE EXCEPTION 'wait_for_job cannot run inside a transaction block'
            USING ERRCODE = '25001', HINT = 'Commit first (autocommit), or use SELECT kwdbml.wait_job(job_id, timeout) for a short wait.';
    END IF;
    LOOP
        status := kwdbml._waitable_status(job_id);
        EXIT WHEN status <> 'RUNNING' OR pg_catalog.clock_timestamp() >= give_up;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(pause);
        pause := least(pause OPERATOR(pg_catalog.*) 1.5, 0.5);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE kwdbml.wait_for_job(uuid, interval, text) IS
    'waits until a job ends or the time is up and answers its status; commits between looks: not inside a transaction block';
CREATE OR REPLACE PROCEDURE kwdbml.wait_for_job(job_id text, timeout interval DEFAULT NULL, INOUT status text DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    CALL kwdbml.wait_for_job(kwdbml._job_id(job_id), timeout, status);
END
$$;
COMMENT ON PROCEDURE kwdbml.wait_for_job(text, interval, text) IS
    'waits until a job ends or the time is up and answers its status; commits between looks: not inside a transaction block';

-- -------- sql/functions/jobs/wait_job.sql
-- Contract: 55000 when the row was written by the transaction that asks: no worker can see the job before it commits.
CREATE OR REPLACE FUNCTION kwdbml._waitable_status(job_id uuid) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found_status text;
    written xid;
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    SELECT j.status, j.xmin INTO found_status, written FROM kwdbml.job j WHERE j.id = job_id;
    IF found_status IS NULL THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    IF found_status = 'RUNNING' AND kwdbml._written_here(written) THEN
        RAISE EXCEPTION 'job % was submitted by this transaction and starts only when it commits', job_id
            USING ERRCODE = '55000', HINT = 'Commit first, then wait.';
    END IF;
    RETURN found_status;
END
$$;
COMMENT ON FUNCTION kwdbml._waitable_status(uuid) IS 'the status of a job that one may wait for';

-- Contract: the status when the job ends or the time is up. Holds its snapshot while it waits: for short waits.
CREATE OR REPLACE FUNCTION kwdbml.wait_job(job_id uuid, timeout interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    give_up timestamptz := pg_catalog.clock_timestamp() + timeout;
    pause double precision := 0.02;
    found_status text := kwdbml._waitable_status(job_id);
BEGIN
    WHILE found_status = 'RUNNING' AND (give_up IS NULL OR pg_catalog.clock_timestamp() < give_up) LOOP
        PERFORM pg_catalog.pg_sleep(pause);
        pause := least(pause OPERATOR(pg_catalog.*) 1.5, 0.5);
        found_status := kwdbml._waitable_status(job_id);
    END LOOP;
    RETURN found_status;
END
$$;
COMMENT ON FUNCTION kwdbml.wait_job(uuid, interval) IS
    'waits until a job ends or the time is up and answers its status; holds a snapshot, which keeps VACUUM from cleaning up: for long waits CALL kwdbml.wait_for_job';
CREATE OR REPLACE FUNCTION kwdbml.wait_job(job_id text, timeout interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN kwdbml.wait_job(kwdbml._job_id(job_id), timeout);
END
$$;
COMMENT ON FUNCTION kwdbml.wait_job(text, interval) IS
    'waits until a job ends or the time is up and answers its status; holds a snapshot, which keeps VACUUM from cleaning up: for long waits CALL kwdbml.wait_for_job';

-- -------- sql/functions/models/import_model.sql
-- Contract: 'schema.name,version'. Anybody for a new name; a further version needs CREATE on the model and the same problem
-- type, features and target. The bundle is checked (a ZIP with the files asked for, bounded), never executed here.
CREATE OR REPLACE FUNCTION kwdbml.import_model(
    model_name text, description text, problem_type text, framework text, runtime text,
    input_schema jsonb, output_schema jsonb, model_entity bytea, transformer_entity bytea, metrics jsonb DEFAULT NULL)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_model', pg_catalog.jsonb_build_array(model_name, description, problem_type, framework, runtime,
    input_schema, output_schema, metrics), ARRAY[model_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_model(text, text, text, text, text, jsonb, jsonb, bytea, bytea, jsonb) IS
    'makes a version of a model from a ZIP of a trained one (model/model.joblib …), see docs/bundles.md; description is the model''s, kept with its first version alone';
CREATE OR REPLACE FUNCTION kwdbml.import_model(
    model_name text, description text, problem_type text, framework text, runtime text,
    input_schema text, output_schema text, model_entity bytea, transformer_entity bytea, metrics text DEFAULT NULL)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_model', pg_catalog.jsonb_build_array(model_name, description, problem_type, framework, runtime,
    input_schema, output_schema, metrics), ARRAY[model_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_model(text, text, text, text, text, text, text, bytea, bytea, text) IS
    'import_model with JSON as text, as JDBC''s setString sends it';

-- Contract: what import_model asks for, checked once more, because a request may be written by hand.
CREATE OR REPLACE FUNCTION kwdbml._do_import_model(who name, arguments jsonb, bundles bytea[]) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given kwdbml.model := jsonb_populate_record(NULL::kwdbml.model, arguments);
    kinds constant text[] := ARRAY['model', 'transformer'];
    m kwdbml.model;
    version_id uuid;
BEGIN
    PERFORM kwdbml._check_model_name(given.schema || '.' || given.name, who);
    IF NOT EXISTS (SELECT FROM kwdbml.runtime r
                   WHERE (r.framework, r.runtime) = (arguments ->> 'framework', arguments ->> 'runtime')) THEN
        RAISE EXCEPTION 'no such runtime: % %', arguments ->> 'framework', arguments ->> 'runtime'
            USING ERRCODE = '22023', HINT = 'SELECT * FROM kwdbml.runtime lists them.';
    ELSIF bundles[1] IS NULL THEN
        RAISE EXCEPTION 'model_entity is NULL' USING ERRCODE = '22004', HINT = 'Use kwdbml.import_model.';
    END IF;
    m := kwdbml._model_to_extend(given.schema, given.name, coalesce(given.description, ''), who,
                                 given.problem_type, given.features, given.target, true, false);
    INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime, last_metrics)
    VALUES (m.id, m.next_version, m.next_version = 1, who, arguments ->> 'framework', arguments ->> 'runtime',
            nullif(arguments -> 'metrics', 'null'))
    RETURNING id INTO version_id;
    UPDATE kwdbml.model b SET next_version = b.next_version + 1, last_updated = clock_timestamp() WHERE b.id = m.id;
    FOR i IN 1..2 LOOP
        IF bundles[i] IS NOT NULL THEN
            PERFORM kwdbml._store_bundle(NULL, version_id, kinds[i], bundles[i]);
        END IF;
    END LOOP;
    RETURN to_jsonb(format('%s.%s,%s', m.schema, m.name, m.next_version));
END
$$;
COMMENT ON FUNCTION kwdbml._do_import_model(name, jsonb, bytea[]) IS 'does what import_model asks for';
REVOKE ALL ON FUNCTION kwdbml._do_import_model(name, jsonb, bytea[]) FROM PUBLIC;

-- -------- sql/functions/models/remove_model.sql
-- Contract: the qualified name; DELETE on the model, 55006 while a running job uses it. All versions go.
CREATE OR REPLACE FUNCTION kwdbml.remove_model(model_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_model', pg_catalog.jsonb_build_object('model', kwdbml._model_id(model_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_model(text) IS 'removes a model with all its versions';

-- Contract: as above, for one version; 55006 for the active one. No NULL here: it must not mean the whole model.
CREATE OR REPLACE FUNCTION kwdbml.remove_model(model_name text, model_version bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_model', pg_catalog.jsonb_build_object(
        'version', kwdbml._given_version(model_version), 'model', kwdbml._model_id(model_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_model(text, bigint) IS 'removes a version of a model, but not the active one; 0 is the newest';

CREATE OR REPLACE FUNCTION kwdbml._do_remove_model(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model := kwdbml._model_locked((arguments ->> 'model')::uuid, 'DELETE', who);
    shown text := m.schema || '.' || m.name;
    v kwdbml.model_version;
BEGIN
    IF arguments ? 'version' THEN
        v := kwdbml._version_of(m, kwdbml._given_version((arguments ->> 'version')::bigint));
        IF v.active THEN
            RAISE EXCEPTION 'version % is the active one of model %', v.version, shown
                USING ERRCODE = '55006', HINT = 'Make another one active first (kwdbml.set_active_version), or remove the whole model.';
        END IF;
        DELETE FROM kwdbml.model_version b WHERE b.id = v.id;
        UPDATE kwdbml.model b SET last_updated = clock_timestamp() WHERE b.id = m.id;
    ELSIF EXISTS (SELECT FROM kwdbml.job j WHERE j.model_name = shown AND j.type = 'TRAIN' AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'model % is being trained by a running job', shown
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    ELSE
        DELETE FROM kwdbml.model b WHERE b.id = m.id;
    END IF;
    RETURN to_jsonb(shown);
END
$$;
COMMENT ON FUNCTION kwdbml._do_remove_model(name, jsonb) IS 'does what remove_model asks for';
REVOKE ALL ON FUNCTION kwdbml._do_remove_model(name, jsonb) FROM PUBLIC;

-- -------- sql/functions/models/set_active_version.sql
-- Contract: the number that is active now; UPDATE on the model. 0 means the newest version.
CREATE OR REPLACE FUNCTION kwdbml.set_active_version(model_name text, model_version bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('set_active_version', pg_catalog.jsonb_build_object(
        'version', kwdbml._given_version(model_version), 'model', kwdbml._model_id(model_name)))::integer;
END
$$;
COMMENT ON FUNCTION kwdbml.set_active_version(text, bigint) IS 'makes a version the active one, which is used where none is named; 0 is the newest';

CREATE OR REPLACE FUNCTION kwdbml._do_set_active_version(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model := kwdbml._model_locked((arguments ->> 'model')::uuid, 'UPDATE', who);
    v kwdbml.model_version := kwdbml._version_of(m, kwdbml._given_version((arguments ->> 'version')::bigint));
BEGIN
    IF NOT v.active THEN
        UPDATE kwdbml.model_version b SET active = false WHERE b.model_id = m.id AND b.active;
        UPDATE kwdbml.model_version b SET active = true WHERE b.id = v.id;
        UPDATE kwdbml.model b SET last_updated = clock_timestamp() WHERE b.id = m.id;
    END IF;
    RETURN to_jsonb(v.version);
END
$$;
COMMENT ON FUNCTION kwdbml._do_set_active_version(name, jsonb) IS 'does what set_active_version asks for';
REVOKE ALL ON FUNCTION kwdbml._do_set_active_version(name, jsonb) FROM PUBLIC;

-- -------- sql/functions/models/show_models.sql
-- Contract: one row per model on which the caller has SELECT, of its active version.
CREATE OR REPLACE FUNCTION kwdbml.show_models() RETURNS SETOF kwdbml.model_row LANGUAGE sql STABLE ROWS 100
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
CREATE OR REPLACE FUNCTION kwdbml.show_model(model_name text, model_version bigint DEFAULT NULL)
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

CREATE OR REPLACE FUNCTION kwdbml.show_models(model_name text, model_version bigint DEFAULT NULL) RETURNS SETOF kwdbml.model_version_row
LANGUAGE sql STABLE ROWS 10
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_model($1, $2);
END;
COMMENT ON FUNCTION kwdbml.show_models(text, bigint) IS 'show_model in the vendor''s other spelling';

-- -------- sql/functions/pipelines/algorithms.sql
-- Contract: one row per built-in algorithm; hyperparameters: {name: {type, range, default, description}}.
CREATE OR REPLACE FUNCTION kwdbml.algorithms() RETURNS SETOF kwdbml.algorithm_row LANGUAGE sql STABLE ROWS 10
BEGIN ATOMIC
    SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::kwdbml.algorithm_row, kwdbml._call('algorithms', '[]'));
END;
COMMENT ON FUNCTION kwdbml.algorithms() IS 'the built-in algorithms for kwdbml.create_training_pipeline';

-- -------- sql/functions/pipelines/create_training_pipeline.sql
-- requires: _load
-- Contract: the qualified name. A pipeline of built-in code; features, types and problem type are read off the data
-- as the caller, who needs SELECT on it.
CREATE OR REPLACE FUNCTION kwdbml.create_training_pipeline(
    pipeline_name text, algorithm text, target text, train_data text, problem_type text DEFAULT NULL,
    features text[] DEFAULT NULL, hyperparameters jsonb DEFAULT '{}', description text DEFAULT '')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('create_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, algorithm, target, train_data, problem_type, features, hyperparameters, description)) #>> '{}';
COMMENT ON FUNCTION kwdbml.create_training_pipeline(text, text, text, text, text, text[], jsonb, text) IS
    'makes a training pipeline from a built-in algorithm, without any upload; see kwdbml.algorithms()';
CREATE OR REPLACE FUNCTION kwdbml.create_training_pipeline(
    pipeline_name text, algorithm text, target text, train_data text, problem_type text,
    features text[], hyperparameters text, description text DEFAULT '')
RETURNS text LANGUAGE sql
RETURN kwdbml._call('create_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, algorithm, target, train_data, problem_type, features, hyperparameters, description)) #>> '{}';
COMMENT ON FUNCTION kwdbml.create_training_pipeline(text, text, text, text, text, text[], text, text) IS
    'create_training_pipeline with hyperparameters as text';

-- -------- sql/functions/pipelines/explain_train.sql
-- requires: _load
-- Contract: what train_model would do with a data set, a row for each thing, in this order: the verdict (accepted, would
-- fail, refused), the data set, the target and the features as declared (as it is, cast, refused, missing), the columns
-- that are unused, estimates of rows, bytes and seconds, warnings. Needs what train_model needs: TRAIN on the pipeline and
-- SELECT on the data; runs nothing but the planner, as the caller. Says nothing of model names and settings.
CREATE OR REPLACE FUNCTION kwdbml.explain_train(pipeline_name text, train_data text) RETURNS SETOF kwdbml.explain_row
LANGUAGE sql STABLE ROWS 20
BEGIN ATOMIC
    SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::kwdbml.explain_row,
        kwdbml._call('explain_train', pg_catalog.jsonb_build_array(pipeline_name, train_data)));
END;
COMMENT ON FUNCTION kwdbml.explain_train(text, text) IS
    'what train_model would do with a data set, before anything runs: columns, estimates and warnings, the verdict first; needs TRAIN on the pipeline';

-- -------- sql/functions/pipelines/import_training_pipeline.sql
-- requires: _load
-- Contract: stores a bundle for a pipeline that this very transaction has made; nobody else can see that row yet, and
-- nobody can add to one that is committed. SECURITY DEFINER: callers have no right on artefacts.
CREATE OR REPLACE FUNCTION kwdbml._attach_bundle(pipeline uuid, bundle_kind text, bundle bytea) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.id = pipeline AND p.algorithm IS NULL AND kwdbml._written_here(p.xmin))
       OR bundle_kind NOT IN ('pipeline', 'transformer') THEN
        RAISE EXCEPTION 'bundles belong to the transaction that makes their pipeline' USING ERRCODE = '42501';
    END IF;
    PERFORM kwdbml._store_bundle(pipeline, NULL, bundle_kind, bundle);
END
$$;
COMMENT ON FUNCTION kwdbml._attach_bundle(uuid, text, bytea) IS 'stores the bundle of a pipeline that is being made';

-- Contract: the qualified name. The bundle is checked (a ZIP with the files asked for, bounded), never executed here.
CREATE OR REPLACE FUNCTION kwdbml.import_training_pipeline(
    pipeline_name text, description text, problem_type text, framework text, runtime text,
    input_schema jsonb, output_schema jsonb, pipeline_entity bytea, transformer_entity bytea)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, description, problem_type, framework, runtime, input_schema, output_schema),
        ARRAY[pipeline_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_training_pipeline(text, text, text, text, text, jsonb, jsonb, bytea, bytea) IS
    'makes a training pipeline from a ZIP of your own code (pipeline/train.py), see docs/bundles.md';
CREATE OR REPLACE FUNCTION kwdbml.import_training_pipeline(
    pipeline_name text, description text, problem_type text, framework text, runtime text,
    input_schema text, output_schema text, pipeline_entity bytea, transformer_entity bytea)
RETURNS text LANGUAGE sql
RETURN kwdbml._call('import_training_pipeline', pg_catalog.jsonb_build_array(pipeline_name, description, problem_type, framework, runtime, input_schema, output_schema),
        ARRAY[pipeline_entity, transformer_entity]) #>> '{}';
COMMENT ON FUNCTION kwdbml.import_training_pipeline(text, text, text, text, text, text, text, bytea, bytea) IS
    'import_training_pipeline with the schemas as text, as JDBC''s setString sends them';

-- -------- sql/functions/pipelines/remove_training_pipeline.sql
-- Contract: the qualified name; DELETE on it (42501), 42704 when not visible, 55006 while a running job uses it (trigger).
CREATE OR REPLACE FUNCTION kwdbml.remove_training_pipeline(pipeline_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('remove_pipeline',
        pg_catalog.jsonb_build_object('pipeline', kwdbml._pipeline_id(pipeline_name))) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.remove_training_pipeline(text) IS 'removes a training pipeline; models it made stay';

CREATE OR REPLACE FUNCTION kwdbml._do_remove_pipeline(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pipeline uuid := (arguments ->> 'pipeline')::uuid;
    p kwdbml.pipeline;
BEGIN
    IF kwdbml._pipeline_right(pipeline, 'DELETE', who) THEN
        PERFORM FROM kwdbml.pipeline b WHERE b.id = pipeline FOR UPDATE;
        PERFORM kwdbml._hold_grants('training pipeline', pipeline, 'DELETE');
    END IF;
    SELECT * INTO p FROM kwdbml.pipeline b WHERE b.id = pipeline;
    IF NOT FOUND OR NOT kwdbml._has_any('training pipeline', p.id, who) THEN
        RAISE EXCEPTION 'no such training pipeline' USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    ELSIF NOT kwdbml._pipeline_right(p.id, 'DELETE', who) THEN
        RAISE EXCEPTION 'permission denied for training pipeline %.%', p.schema, p.name
            USING ERRCODE = '42501', HINT = 'You need DELETE on it; its creator can grant that.';
    END IF;
    DELETE FROM kwdbml.pipeline b WHERE b.id = p.id;
    RETURN to_jsonb(p.schema || '.' || p.name);
END
$$;
COMMENT ON FUNCTION kwdbml._do_remove_pipeline(name, jsonb) IS 'does what remove_training_pipeline asks for';
REVOKE ALL ON FUNCTION kwdbml._do_remove_pipeline(name, jsonb) FROM PUBLIC;

-- -------- sql/functions/pipelines/show_training_pipelines.sql
-- Contract: the pipelines on which the caller has SELECT.
CREATE OR REPLACE FUNCTION kwdbml.show_training_pipelines() RETURNS SETOF kwdbml.pipeline_row LANGUAGE sql STABLE ROWS 100
BEGIN ATOMIC
    SELECT p.schema, p.name, p.description, p.creator::text, p.created, p.problem_type, p.features, p.target,
           p.framework, p.runtime
    FROM kwdbml.pipeline p
    WHERE kwdbml._pipeline_right(p.id, 'SELECT', current_user)
    ORDER BY p.schema, p.name;
END;
COMMENT ON FUNCTION kwdbml.show_training_pipelines() IS 'the training pipelines that you may see';

-- Contract: one row; 42704 in the same words whether it does not exist or is not yours to see.
CREATE OR REPLACE FUNCTION kwdbml.show_training_pipeline(pipeline_name text) RETURNS SETOF kwdbml.pipeline_row
LANGUAGE plpgsql STABLE ROWS 1 AS $$
DECLARE
    parts text[] := kwdbml._name('training pipeline', pipeline_name);
BEGIN
    RETURN QUERY SELECT * FROM kwdbml.show_training_pipelines() p WHERE p.schema = parts[1] AND p.name = parts[2];
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no such training pipeline: %.%', parts[1], parts[2]
            USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_training_pipelines() lists those you may see.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.show_training_pipeline(text) IS 'one training pipeline';

-- -------- sql/functions/privileges/grant_privilege_on_model.sql
-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE OR REPLACE FUNCTION kwdbml.grant_privilege_on_model(model_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('grant', 'model', kwdbml._model_id(model_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.grant_privilege_on_model(text, text, text) IS
    'grants privileges on a model, joined by | or ALL, to a role or syspublic (everyone); its creator or an admin may';

-- -------- sql/functions/privileges/grant_privilege_on_training_pipeline.sql
-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE OR REPLACE FUNCTION kwdbml.grant_privilege_on_training_pipeline(pipeline_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('grant', 'training pipeline', kwdbml._pipeline_id(pipeline_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.grant_privilege_on_training_pipeline(text, text, text) IS
    'grants privileges on a training pipeline, joined by | or ALL, to a role or syspublic (everyone); its creator or an admin may';

-- -------- sql/functions/privileges/has_model_privilege.sql
-- Contract: whether a role has all of the named privileges. Admin, creator, or anyone with some privilege on it may ask;
-- to others it is not there (42704).
CREATE OR REPLACE FUNCTION kwdbml.has_model_privilege(model_name text, user_name text, privilege text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN kwdbml._has_all('model', kwdbml._model_id(model_name), kwdbml._grantee(user_name), kwdbml._privileges('model', privilege));
END
$$;
COMMENT ON FUNCTION kwdbml.has_model_privilege(text, text, text) IS 'whether a role has all of these privileges on a model';

-- -------- sql/functions/privileges/has_training_pipeline_privilege.sql
-- Contract: whether a role has all of the named privileges. Admin, creator, or anyone with some privilege on it may ask;
-- to others it is not there (42704).
CREATE OR REPLACE FUNCTION kwdbml.has_training_pipeline_privilege(pipeline_name text, user_name text, privilege text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN kwdbml._has_all('training pipeline', kwdbml._pipeline_id(pipeline_name), kwdbml._grantee(user_name), kwdbml._privileges('training pipeline', privilege));
END
$$;
COMMENT ON FUNCTION kwdbml.has_training_pipeline_privilege(text, text, text) IS 'whether a role has all of these privileges on a training pipeline';

-- -------- sql/functions/privileges/privileges.sql
-- What the six privilege functions share. A thing is a model or a training pipeline.

-- Contract: the privileges that a text names, joined by |, in any case; ALL is all there are. 22004, 22023.
CREATE OR REPLACE FUNCTION kwdbml._privileges(thing text, privilege text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := CASE thing WHEN 'model' THEN ARRAY['SELECT', 'UPDATE', 'DELETE', 'EVALUATE', 'PREDICT', 'CREATE']
                               ELSE ARRAY['SELECT', 'DELETE', 'TRAIN'] END;
    named text[] := string_to_array(upper(privilege COLLATE "C"), '|');
    blanks constant text := E' \t\r\n';
    word text;
BEGIN
    IF privilege IS NULL THEN
        RAISE EXCEPTION 'privilege is NULL' USING ERRCODE = '22004', HINT = array_to_string(known, ', ') || ' or ALL, joined by |.';
    END IF;
    FOR i IN 1..greatest(cardinality(named), 1) LOOP
        word := btrim(coalesce(named[i], ''), blanks);
        IF word = 'ALL' THEN
            named := named || known;
        ELSIF word <> ALL (known) THEN
            RAISE EXCEPTION 'unknown privilege "%" on a %', left(btrim(split_part(privilege, '|', i), blanks), 200), thing
                USING ERRCODE = '22023', HINT = array_to_string(known, ', ') || ' or ALL, joined by |.';
        END IF;
    END LOOP;
    RETURN ARRAY(SELECT k FROM unnest(known) AS k WHERE k IN (SELECT btrim(n, blanks) FROM unnest(named) AS n));
END
$$;
COMMENT ON FUNCTION kwdbml._privileges(text, text) IS 'the privileges that a text names';

-- Contract: public for everyone, else the name of an existing role: exactly, else in lower case. 22004, 42704.
CREATE OR REPLACE FUNCTION kwdbml._grantee(user_name text) RETURNS name LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer name;
    given text := btrim(user_name, E' \t\r\n');
    folded text := lower(given COLLATE "C");  -- as PostgreSQL folds an identifier
BEGIN
    IF user_name IS NULL THEN
        RAISE EXCEPTION 'user_name is NULL' USING ERRCODE = '22004', HINT = 'Name a role, or syspublic for everyone.';
    ELSIF folded IN ('syspublic', 'public') THEN
        RETURN 'public';
    END IF;
    SELECT r.rolname INTO answer FROM pg_roles r WHERE r.rolname::text IN (given, folded) ORDER BY r.rolname::text = given DESC LIMIT 1;
    IF answer IS NULL THEN
        RAISE EXCEPTION 'role "%" does not exist', left(given, 200) USING ERRCODE = '42704', HINT = 'Name a role, or syspublic for everyone.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._grantee(text) IS 'the role that a user_name means';

-- Contract: who has all of them; for public: everyone has.
CREATE OR REPLACE FUNCTION kwdbml._has_all(thing text, id uuid, who name, wanted text[]) RETURNS boolean LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF who = 'public' THEN
        RETURN wanted <@ CASE thing
            WHEN 'model' THEN ARRAY(SELECT g.privilege FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.grantee = 'public')
            ELSE ARRAY(SELECT g.privilege FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.grantee = 'public') END;
    END IF;
    RETURN (SELECT bool_and(CASE thing WHEN 'model' THEN kwdbml._model_right(id, w, who) ELSE kwdbml._pipeline_right(id, w, who) END)
            FROM unnest(wanted) AS w);
END
$$;
COMMENT ON FUNCTION kwdbml._has_all(text, uuid, name, text[]) IS 'whether a role has several privileges on a model or training pipeline';

-- Contract: whether a role may know of a model or training pipeline: who kept its id from better days may not.
CREATE OR REPLACE FUNCTION kwdbml._has_any(thing text, id uuid, who name) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM unnest(kwdbml._privileges(thing, 'ALL')) AS p WHERE kwdbml._has_all(thing, id, who, ARRAY[p]));
END
$$;
COMMENT ON FUNCTION kwdbml._has_any(text, uuid, name) IS 'whether a role has any privilege on a model or training pipeline';

-- Contract: keeps the grants of a privilege until the transaction ends. A REPEATABLE READ transaction sees those that
-- were there when it began; where one was revoked since, it is told so here (40001), before it changes anything.
CREATE OR REPLACE FUNCTION kwdbml._hold_grants(thing text, id uuid, wanted text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF thing = 'model' THEN
        PERFORM FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.privilege = wanted FOR KEY SHARE;
    ELSE
        PERFORM FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.privilege = wanted FOR KEY SHARE;
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._hold_grants(text, uuid, text) IS 'locks the grants of a privilege on a model or training pipeline';
REVOKE ALL ON FUNCTION kwdbml._hold_grants(text, uuid, text) FROM PUBLIC;

-- Contract: whether the model or pipeline of a request is the requester's to grant; else 42501, or 42704 when it is gone.
-- Whose it is gets locked first, so that reassign_owned and a REPEATABLE READ transaction meet, and before its grants, as
-- everybody does who changes the versions; against another grant too, or two that go on to do more would wait for each
-- other. Who may not grant locks nothing, and is refused also where it becomes his just now.
CREATE OR REPLACE FUNCTION kwdbml._check_grantor(who name, thing text, id uuid) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text;
    owned boolean := CASE thing WHEN 'model' THEN kwdbml._owns_model(id, who) ELSE kwdbml._owns_pipeline(id, who) END;
BEGIN
    IF owned AND thing = 'model' THEN
        PERFORM FROM kwdbml.model m WHERE m.id = _check_grantor.id FOR NO KEY UPDATE;
    ELSIF owned THEN
        PERFORM FROM kwdbml.pipeline p WHERE p.id = _check_grantor.id FOR NO KEY UPDATE;
    END IF;
    IF thing = 'model' THEN
        SELECT m.schema || '.' || m.name INTO shown FROM kwdbml.model m WHERE m.id = _check_grantor.id;
    ELSE
        SELECT p.schema || '.' || p.name INTO shown FROM kwdbml.pipeline p WHERE p.id = _check_grantor.id;
    END IF;
    IF shown IS NULL OR NOT kwdbml._has_any(thing, id, who) THEN
        RAISE EXCEPTION 'no such %', thing USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    ELSIF NOT owned OR NOT (CASE thing WHEN 'model' THEN kwdbml._owns_model(id, who) ELSE kwdbml._owns_pipeline(id, who) END) THEN
        RAISE EXCEPTION 'permission denied to grant or revoke on % %', thing, shown
            USING ERRCODE = '42501', HINT = 'Its creator or an admin can; who was granted a privilege cannot pass it on.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_grantor(name, text, uuid) IS 'whether a role may grant on a model or training pipeline';

CREATE OR REPLACE FUNCTION kwdbml._do_grant(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    thing text := arguments ->> 'thing';
    id uuid := (arguments ->> 'id')::uuid;
    role name := kwdbml._grantee(arguments ->> 'user_name');
    named text[] := kwdbml._privileges(thing, arguments ->> 'privilege');
BEGIN
    PERFORM kwdbml._check_grantor(who, thing, id);
    IF thing = 'model' THEN
        INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege, grantor)
        SELECT id, role, p, who FROM unnest(named) AS p ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege, grantor)
        SELECT id, role, p, who FROM unnest(named) AS p ON CONFLICT DO NOTHING;
    END IF;
    RETURN to_jsonb(arguments ->> 'user_name');
END
$$;
COMMENT ON FUNCTION kwdbml._do_grant(name, jsonb) IS 'does what a grant asks for';
REVOKE ALL ON FUNCTION kwdbml._do_grant(name, jsonb) FROM PUBLIC;

CREATE OR REPLACE FUNCTION kwdbml._do_revoke(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    thing text := arguments ->> 'thing';
    id uuid := (arguments ->> 'id')::uuid;
    role name;
    named text[] := kwdbml._privileges(thing, arguments ->> 'privilege');
BEGIN
    PERFORM kwdbml._check_grantor(who, thing, id);
    BEGIN
        role := kwdbml._grantee(arguments ->> 'user_name');
    EXCEPTION WHEN undefined_object THEN
        -- what a role was granted here that is gone can be revoked still
        SELECT g.grantee INTO role FROM (
            SELECT m.grantee FROM kwdbml.model_privilege m WHERE thing = 'model' AND m.model_id = id
            UNION ALL
            SELECT p.grantee FROM kwdbml.pipeline_privilege p WHERE thing <> 'model' AND p.pipeline_id = id) AS g
        WHERE g.grantee::text = btrim(arguments ->> 'user_name') LIMIT 1;
        IF NOT FOUND THEN
            RAISE;
        END IF;
    END;
    IF thing = 'model' THEN
        DELETE FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.grantee = role AND g.privilege = ANY (named);
    ELSE
        DELETE FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.grantee = role AND g.privilege = ANY (named);
    END IF;
    RETURN to_jsonb(arguments ->> 'user_name');
END
$$;
COMMENT ON FUNCTION kwdbml._do_revoke(name, jsonb) IS 'does what a revoke asks for';
REVOKE ALL ON FUNCTION kwdbml._do_revoke(name, jsonb) FROM PUBLIC;

-- Contract: asks for a grant or revoke, its arguments checked as the caller first.
CREATE OR REPLACE FUNCTION kwdbml._ask_privilege(kind text, thing text, id uuid, user_name text, privilege text) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN kwdbml._ask(kind, jsonb_build_object('thing', thing, 'id', id, 'user_name', user_name, 'privilege', privilege)) #>> '{}';
END
$$;
COMMENT ON FUNCTION kwdbml._ask_privilege(text, text, uuid, text, text) IS 'asks for a grant or revoke';

-- -------- sql/functions/privileges/reassign_owned.sql
-- Contract: to_name; admins only (others: 42501 before any look-up). Models, versions, pipelines and ended jobs of from_name
-- become to_name's, and so does what was granted to it: DROP ROLE and ALTER ROLE … RENAME leave names behind, which a new
-- role of that name would find. from_name is taken exactly and need not be a role any more, but must have been heard of
-- (42704), so that a slip of the pen is no success. 55006 while a job of from_name is RUNNING.
CREATE OR REPLACE FUNCTION kwdbml.reassign_owned(from_name text, to_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('reassign_owned', pg_catalog.jsonb_build_object('from_name', from_name, 'to_name', to_name)) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.reassign_owned(text, text) IS
    'gives models, training pipelines, ended jobs and privileges of a role, which may be gone already, to another role; admins only; call it before DROP ROLE and after ALTER ROLE … RENAME';

CREATE OR REPLACE FUNCTION kwdbml._do_reassign_owned(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former text := arguments ->> 'from_name';
    heir name;
BEGIN
    IF NOT kwdbml._is_admin(who) THEN
        RAISE EXCEPTION 'permission denied to reassign what a role owns'
            USING ERRCODE = '42501', HINT = 'Only admins can: superusers and members of kwdbml_admin.';
    END IF;
    heir := kwdbml._heir(former, arguments ->> 'to_name');
    IF heir <> former THEN
        PERFORM kwdbml._reassign_jobs(former, heir);
        UPDATE kwdbml.model m SET creator = heir WHERE m.creator = former;
        UPDATE kwdbml.model_version v SET creator = heir WHERE v.creator = former;
        UPDATE kwdbml.pipeline p SET creator = heir WHERE p.creator = former;
        PERFORM kwdbml._reassign_privileges(former, heir);
    END IF;
    RETURN to_jsonb(heir);
END
$$;
COMMENT ON FUNCTION kwdbml._do_reassign_owned(name, jsonb) IS 'does what reassign_owned asks for';
REVOKE ALL ON FUNCTION kwdbml._do_reassign_owned(name, jsonb) FROM PUBLIC;

-- Contract: the role that a to_name means, both names checked: 22004, 22023, 42704.
CREATE OR REPLACE FUNCTION kwdbml._heir(former text, to_name text) RETURNS name LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    heir name;
BEGIN
    IF former IS NULL OR to_name IS NULL THEN
        RAISE EXCEPTION '% is NULL', CASE WHEN former IS NULL THEN 'from_name' ELSE 'to_name' END
            USING ERRCODE = '22004', HINT = 'Name both roles.';
    END IF;
    BEGIN
        heir := kwdbml._grantee(to_name);
    EXCEPTION WHEN undefined_object THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = '42704', HINT = 'Name a role that exists: SELECT rolname FROM pg_roles lists them.';
    END;
    IF 'public' IN (former, heir) OR former = 'syspublic' THEN
        RAISE EXCEPTION 'public is everyone and no role' USING ERRCODE = '22023', HINT = 'Name two roles.';
    ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = former)
       AND NOT EXISTS (SELECT FROM kwdbml.job j WHERE j.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model m WHERE m.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model_version v WHERE v.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model_privilege g WHERE former IN (g.grantee, g.grantor))
       AND NOT EXISTS (SELECT FROM kwdbml.pipeline_privilege g WHERE former IN (g.grantee, g.grantor))
       AND NOT EXISTS (SELECT FROM kwdbml.file_system f WHERE former = ANY (f.roles)) THEN
        RAISE EXCEPTION 'role "%" does not exist and has left nothing behind', former
            USING ERRCODE = '42704', HINT = 'The name is taken exactly, in upper and lower case.';
    END IF;
    RETURN heir;
END
$$;
COMMENT ON FUNCTION kwdbml._heir(text, text) IS 'the role that gets what another one owns';
REVOKE ALL ON FUNCTION kwdbml._heir(text, text) FROM PUBLIC;

-- Contract: 55006 unless all jobs of former have ended. A RUNNING job must not change hands: it reads data with its
-- creator's rights, and an admin would read with those of a superuser. It is left out of the UPDATE and looked for
-- afterwards, so that none slips through that was committed, or ended, in between.
CREATE OR REPLACE FUNCTION kwdbml._reassign_jobs(former text, heir name) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Secrets are no inheritance: env is its creator's and the worker's alone, and an ended job needs none.
    DELETE FROM kwdbml.job_env e USING kwdbml.job j WHERE j.id = e.job_id AND j.creator = former AND j.status <> 'RUNNING';
    UPDATE kwdbml.job j SET creator = heir, creator_oid = to_regrole(quote_ident(heir))::oid
    WHERE j.creator = former AND j.status <> 'RUNNING' AND NOT EXISTS (SELECT FROM kwdbml.job_env e WHERE e.job_id = j.id);
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.creator = former) THEN
        RAISE EXCEPTION 'role "%" has running jobs', former
            USING ERRCODE = '55006', HINT = format(
                'Wait for them or cancel them: SELECT kwdbml.cancel_job(id) FROM kwdbml.show_jobs(ARRAY[''RUNNING'']) WHERE creator = %L.',
                former);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._reassign_jobs(text, name) IS 'gives the ended jobs of a role to another one';
REVOKE ALL ON FUNCTION kwdbml._reassign_jobs(text, name) FROM PUBLIC;

-- Contract: what both had is had once.
CREATE OR REPLACE FUNCTION kwdbml._reassign_privileges(former text, heir name) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.model_privilege g SET grantor = heir WHERE g.grantor = former;
    UPDATE kwdbml.pipeline_privilege g SET grantor = heir WHERE g.grantor = former;
    INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege, grantor)
    SELECT g.model_id, heir, g.privilege, g.grantor FROM kwdbml.model_privilege g WHERE g.grantee = former ON CONFLICT DO NOTHING;
    INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege, grantor)
    SELECT g.pipeline_id, heir, g.privilege, g.grantor FROM kwdbml.pipeline_privilege g WHERE g.grantee = former ON CONFLICT DO NOTHING;
    DELETE FROM kwdbml.model_privilege g WHERE g.grantee = former;
    DELETE FROM kwdbml.pipeline_privilege g WHERE g.grantee = former;
    UPDATE kwdbml.file_system f
    SET roles = CASE WHEN heir = ANY (f.roles) THEN array_remove(f.roles, former::name) ELSE array_replace(f.roles, former::name, heir) END
    WHERE former::name = ANY (f.roles);
END
$$;
COMMENT ON FUNCTION kwdbml._reassign_privileges(text, name) IS 'gives the privileges of a role to another one';
REVOKE ALL ON FUNCTION kwdbml._reassign_privileges(text, name) FROM PUBLIC;

-- -------- sql/functions/privileges/revoke_privilege_on_model.sql
-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE OR REPLACE FUNCTION kwdbml.revoke_privilege_on_model(model_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('revoke', 'model', kwdbml._model_id(model_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.revoke_privilege_on_model(text, text, text) IS
    'revokes privileges on a model, joined by | or ALL, from a role or syspublic (everyone); its creator or an admin may';

-- -------- sql/functions/privileges/revoke_privilege_on_training_pipeline.sql
-- Contract: the user name; creator or admin only (42501). Several privileges are joined by |; syspublic means everyone.
CREATE OR REPLACE FUNCTION kwdbml.revoke_privilege_on_training_pipeline(pipeline_name text, user_name text, privilege text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask_privilege('revoke', 'training pipeline', kwdbml._pipeline_id(pipeline_name), user_name, privilege);
END
$$;
COMMENT ON FUNCTION kwdbml.revoke_privilege_on_training_pipeline(text, text, text) IS
    'revokes privileges on a training pipeline, joined by | or ALL, from a role or syspublic (everyone); its creator or an admin may';

-- -------- sql/functions/worker/_decide.sql
-- Contract: the score under a name among metrics [{objective, score}]; NULL when there is none.
CREATE OR REPLACE FUNCTION kwdbml._score(metrics jsonb, wanted text) RETURNS double precision LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT (x ->> 'score')::double precision FROM jsonb_array_elements(nullif(metrics, 'null')) AS x
            WHERE x ->> 'objective' = wanted LIMIT 1);
END
$$;
COMMENT ON FUNCTION kwdbml._score(jsonb, text) IS 'one score among metrics';

-- Contract: whether the version that is landing becomes the active one, with both scores and the reason: what
-- kwdbml.jobs.decision shows. The model is locked, so the active version stays what it is. compared is the version that
-- the run has measured beside the new one. Another that became active meanwhile counts with what was measured when it
-- was trained, if that was on the same rows and of the same label. No score is never better, and neither is the same.
CREATE OR REPLACE FUNCTION kwdbml._decide(m kwdbml.model, j kwdbml.job, compared uuid, outcome jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    objective text := j.settings ->> 'objective';
    held jsonb := outcome -> 'held_out';
    ours double precision := kwdbml._score(held -> 'metrics', objective);
    theirs double precision;
    v kwdbml.model_version;
    promoted boolean;
BEGIN
    SELECT * INTO v FROM kwdbml.model_version b WHERE b.model_id = m.id AND b.active;
    IF v.id = compared THEN
        theirs := kwdbml._score(held -> 'active' -> 'metrics', objective);
    ELSIF v.holdout_hash = held ->> 'hash'
          AND v.holdout_metrics -> 0 -> 'positive_label' IS NOT DISTINCT FROM held -> 'metrics' -> 0 -> 'positive_label' THEN
        theirs := kwdbml._score(v.holdout_metrics, objective);
    END IF;
    promoted := v.id IS NULL OR coalesce(CASE outcome ->> 'better' WHEN 'lower' THEN ours < theirs ELSE ours > theirs END, false);
    RETURN jsonb_build_object(
        'promoted', promoted, 'objective', objective, 'better', outcome -> 'better', 'candidate', ours, 'active', theirs,
        'version', m.next_version, 'active_version', v.version, 'holdout_hash', held -> 'hash', 'holdout_rows', held -> 'rows',
        'reason', CASE
            WHEN v.id IS NULL THEN 'the first version of the model'
            WHEN ours IS NULL THEN
                coalesce('the new version could not be measured: ' || (held ->> 'problem'), format('the new version has no %s', objective))
            WHEN theirs IS NULL AND v.id = compared THEN coalesce(
                format('version %s could not be measured: ', v.version) || (held -> 'active' ->> 'problem'),
                format('version %s has no %s', v.version, objective))
            WHEN theirs IS NULL THEN format('version %s became active meanwhile, and %s: train again', v.version, CASE
                WHEN (v.holdout_hash = held ->> 'hash') IS NOT TRUE THEN 'was not measured on the same rows'
                WHEN nullif(v.holdout_metrics, 'null') IS NULL THEN 'could not be measured when it was trained'
                WHEN kwdbml._score(v.holdout_metrics, objective) IS NULL THEN format('had no %s when it was trained', objective)
                ELSE 'was measured for another positive label' END)
            WHEN promoted THEN format('better than version %s', v.version)
            WHEN ours = theirs THEN format('as good as version %s, and no better', v.version)
            ELSE format('worse than version %s', v.version) END);
END
$$;
COMMENT ON FUNCTION kwdbml._decide(kwdbml.model, kwdbml.job, uuid, jsonb) IS 'whether a new version is promoted, and why';
REVOKE ALL ON FUNCTION kwdbml._decide(kwdbml.model, kwdbml.job, uuid, jsonb) FROM PUBLIC;

-- -------- sql/functions/worker/_fence.sql
-- Contract: the open attempt of this token, or 55000: somebody else has taken the job over, or it is gone. What decides
-- is the token, never a clock.
CREATE OR REPLACE FUNCTION kwdbml._fence(job uuid, held uuid) RETURNS kwdbml.attempt LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_attempt kwdbml.attempt;
BEGIN
    SELECT * INTO found_attempt FROM kwdbml.attempt a WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is no longer ours', job USING ERRCODE = '55000', HINT = 'Another worker has taken it over, or it was removed.';
    END IF;
    RETURN found_attempt;
END
$$;
COMMENT ON FUNCTION kwdbml._fence(uuid, uuid) IS 'the attempt that a worker''s token stands for';
REVOKE ALL ON FUNCTION kwdbml._fence(uuid, uuid) FROM PUBLIC;

-- -------- sql/functions/worker/_told_metrics.sql
-- Contract: what an evaluation leaves with the model, for all to see who may see that. Where the model's creator could
-- not have read the rows, of each name asked for one score, and nothing else: his code has seen the rows, and could put
-- them into names of its own. The job's result, which is its creator's alone, has everything.
CREATE OR REPLACE FUNCTION kwdbml._told_metrics(j kwdbml.job, metrics jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
BEGIN
    SELECT b.* INTO m FROM kwdbml.model b JOIN kwdbml.model_version v ON v.model_id = b.id WHERE v.id = j.model_version_id;
    -- by OID, because of names of dropped roles pg_has_role raises
    IF pg_has_role(to_regrole(quote_ident(m.creator)), to_regrole(quote_ident(j.creator)), 'USAGE') THEN
        RETURN metrics;
    END IF;
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_object('objective', asked.name, 'score', told.score)
                                  ORDER BY asked.n, asked.name COLLATE "C"), '[]')
        FROM (SELECT p.prefix || s.name AS name, min(g.n) AS n
              FROM regexp_split_to_table(j.settings ->> 'objectives', '[,|]') WITH ORDINALITY AS g(given, n),
                   unnest(ARRAY[btrim(g.given), lower(btrim(g.given))]) AS s(name),
                   -- of several targets each has its name before it
                   unnest(''::text || ARRAY(SELECT t ->> 'name' || '.' FROM jsonb_array_elements(m.target) AS t)) AS p(prefix)
              GROUP BY 1) AS asked,
             LATERAL (SELECT x -> 'score' AS score FROM jsonb_array_elements(metrics) AS x
                      WHERE x ->> 'objective' = asked.name LIMIT 1) AS told);
END
$$;
COMMENT ON FUNCTION kwdbml._told_metrics(kwdbml.job, jsonb) IS 'the metrics of an evaluation that become the version''s';
REVOKE ALL ON FUNCTION kwdbml._told_metrics(kwdbml.job, jsonb) FROM PUBLIC;

-- -------- sql/functions/worker/worker_artefacts.sql
-- Contract: the bundles that a job runs with: (kind, id, bytes, sha256, chunks). Those of the version that a training is
-- compared with are active-model and active-transformer.
CREATE OR REPLACE FUNCTION kwdbml.worker_artefacts(job uuid, held uuid)
RETURNS TABLE (kind text, artefact uuid, bytes bigint, sha256 text, chunks bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
BEGIN
    RETURN QUERY
        SELECT CASE WHEN f.model_version_id = a.compared_version_id THEN 'active-' ELSE '' END || f.kind, f.id, f.bytes, f.sha256,
               (SELECT count(*) FROM kwdbml.artefact_chunk c WHERE c.artefact_id = f.id)
        FROM kwdbml.job j
        JOIN kwdbml.artefact f ON f.model_version_id IN (j.model_version_id, a.compared_version_id)
             OR f.pipeline_id = j.pipeline_id AND (f.kind = 'pipeline' OR f.kind = 'transformer' AND j.type = 'TRAIN')
        WHERE j.id = job;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_artefacts(uuid, uuid) IS 'for workers: the bundles of a job';

-- Contract: one chunk of an artefact of the job; NULL past its end.
CREATE OR REPLACE FUNCTION kwdbml.worker_chunk(job uuid, held uuid, wanted uuid, number integer) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM kwdbml.worker_artefacts(job, held) f WHERE f.artefact = wanted) THEN
        RAISE EXCEPTION 'artefact % is not of job %', wanted, job USING ERRCODE = '42501';
    END IF;
    RETURN (SELECT c.chunk FROM kwdbml.artefact_chunk c WHERE c.artefact_id = wanted AND c.seq = number);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_chunk(uuid, uuid, uuid, integer) IS 'for workers: bytes of a bundle';

-- Contract: stores a chunk of what a TRAIN job made; NULL as the artefact makes a new one. Belongs to the transaction
-- that lands the job: an artefact without owner is never committed, because only worker_land gives it one.
CREATE OR REPLACE FUNCTION kwdbml.worker_put(job uuid, held uuid, artefact uuid, new_kind text, number integer, new_chunk bytea)
RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    put uuid := artefact;
BEGIN
    IF put IS NULL THEN
        INSERT INTO kwdbml.artefact (kind, bytes, sha256) VALUES (new_kind, 0, '') RETURNING id INTO put;
    ELSIF NOT EXISTS (SELECT FROM kwdbml.artefact f WHERE f.id = put AND num_nonnulls(f.pipeline_id, f.model_version_id) = 0) THEN
        RAISE EXCEPTION 'artefact % is not being made', put USING ERRCODE = '42501';
    END IF;
    INSERT INTO kwdbml.artefact_chunk (artefact_id, seq, chunk) VALUES (put, number, new_chunk);
    RETURN put;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_put(uuid, uuid, uuid, text, integer, bytea) IS 'for workers: stores bytes of a model';

-- -------- sql/functions/worker/worker_claim.sql
-- Contract: at most one job: an attempt whose worker has let its lease run out or, on this host, has given it back
-- (takeover), else the queued job of the highest priority. The caller holds it by the token, for the time of the lease,
-- which the heartbeat renews. host is
-- where the attempt may have been launched: the caller's own unless somebody else came so far. queues NULL: all.
CREATE OR REPLACE FUNCTION kwdbml.worker_claim(
    worker_name text, engines text[], lease interval, worker_host text DEFAULT '', queues text[] DEFAULT NULL)
RETURNS SETOF kwdbml.worker_job LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    j kwdbml.job;
    a kwdbml.attempt;
BEGIN
    SELECT t.* INTO a FROM kwdbml.attempt t JOIN kwdbml.job b ON b.id = t.job_id
    WHERE t.ended IS NULL AND (t.lease_until < clock_timestamp() OR t.worker = '' AND t.host = worker_host)
      AND t.engine = ANY (engines)
      AND b.installation = kwdbml._installation() AND (queues IS NULL OR b.queue = ANY (queues))
    ORDER BY t.lease_until LIMIT 1 FOR UPDATE OF t SKIP LOCKED;
    IF FOUND AND a.phase = 'staging' AND a.stagings >= 5 THEN
        -- something about it takes down whoever reads it: the worker, or the whole server
        UPDATE kwdbml.job b
        SET status = 'FAILED', error = jsonb_build_object('type', 'StagingLost', 'step', 'worker', 'traceback', '[]'::jsonb,
            'message', format('worker or server went away %s times while the data was read', a.stagings))
        WHERE b.id = a.job_id AND b.status = 'RUNNING';
        UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = 'StagingLost' WHERE t.job_id = a.job_id AND t.number = a.number;
    ELSIF FOUND THEN
        UPDATE kwdbml.attempt t
        SET token = gen_random_uuid(), worker = worker_name, lease_until = clock_timestamp() + lease, updated = clock_timestamp(),
            host = CASE WHEN t.phase = 'staging' THEN worker_host ELSE t.host END,
            stagings = t.stagings + (t.phase = 'staging')::integer
        WHERE t.job_id = a.job_id AND t.number = a.number RETURNING * INTO a;
        SELECT * INTO j FROM kwdbml.job b WHERE b.id = a.job_id;
        RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, true, a.phase, a.handle, a.host);
        RETURN;
    END IF;
    -- SKIP LOCKED looks through an older snapshot: the unique index on open attempts decides, and we look again.
    FOR tries IN 1..10 LOOP
        SELECT * INTO j FROM kwdbml.job b
        WHERE b.status = 'RUNNING' AND b.engine = ANY (engines) AND b.installation = kwdbml._installation()
          AND (queues IS NULL OR b.queue = ANY (queues))
          AND NOT EXISTS (SELECT FROM kwdbml.attempt t WHERE t.job_id = b.id AND t.ended IS NULL)
        ORDER BY b.priority DESC, b.created LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        INSERT INTO kwdbml.attempt (job_id, number, worker, host, lease_until, engine, run_name)
        SELECT j.id, n.number, worker_name, worker_host, clock_timestamp() + lease, j.engine,
               'kwdbml-' || left(replace(j.installation::text, '-', ''), 12) || '-' || j.id || '-' || n.number
        FROM (SELECT coalesce(max(t.number), 0) + 1 FROM kwdbml.attempt t WHERE t.job_id = j.id) AS n(number)
        ON CONFLICT DO NOTHING RETURNING * INTO a;
        IF FOUND THEN
            RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, false, a.phase, NULL::jsonb, a.host);
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_claim(text, text[], interval, text, text[]) IS 'for workers: takes one job';

-- -------- sql/functions/worker/worker_cleanup.sql
-- Contract: runs to stop and delete, put off for a while so that two workers do not work on one; worker_cleaned ends it.
-- Runs of the engines in bound are reached only from the host that they were launched on.
CREATE OR REPLACE FUNCTION kwdbml.worker_cleanup(engines text[], host text, bound text[] DEFAULT '{local}')
RETURNS TABLE (engine text, run_name text, handle jsonb) LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE kwdbml.cleanup c
    SET not_before = clock_timestamp() + least(interval '10 seconds' * (c.tries + 1), interval '10 minutes'), tries = c.tries + 1
    WHERE c.id IN (SELECT d.id FROM kwdbml.cleanup d
                   WHERE d.engine = ANY (engines) AND d.not_before <= clock_timestamp()
                     AND (d.engine <> ALL (bound) OR d.host IN (worker_cleanup.host, ''))
                   LIMIT 20 FOR UPDATE SKIP LOCKED)
    RETURNING c.engine, c.run_name, c.handle;
END;
COMMENT ON FUNCTION kwdbml.worker_cleanup(text[], text, text[]) IS 'for workers: what must still be stopped and deleted';

CREATE OR REPLACE FUNCTION kwdbml.worker_cleaned(run text) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    DELETE FROM kwdbml.cleanup c WHERE c.run_name = run;
END;
COMMENT ON FUNCTION kwdbml.worker_cleaned(text) IS 'for workers: nothing of a run is left';

-- Contract: a RUNNING job that came with a restored dump never runs here: what it stood for is the original's.
CREATE OR REPLACE FUNCTION kwdbml.worker_sweep() RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a SET ended = clock_timestamp(), outcome = 'RESTORED'
    FROM kwdbml.job j
    WHERE a.job_id = j.id AND a.ended IS NULL AND j.installation <> kwdbml._installation();
    UPDATE kwdbml.job j
    SET status = 'FAILED',
        error = jsonb_build_object('type', 'Restored', 'message', 'restored from a backup: the job was running in another installation',
                                   'step', NULL, 'traceback', '[]'::jsonb)
    WHERE j.status = 'RUNNING' AND j.installation <> kwdbml._installation();
END
$$;
COMMENT ON FUNCTION kwdbml.worker_sweep() IS 'for workers: ends what came running out of a backup';

-- -------- sql/functions/worker/worker_compared.sql
-- Contract: what a training with settings.promote is compared with: {} when the model has no version yet, else the version
-- that was active at the first call of the attempt: {version, framework, user_code, problem}, with a problem when it
-- needs another environment than the one that the run has. NULL for every other job. 42501 without EVALUATE.
CREATE OR REPLACE FUNCTION kwdbml.worker_compared(job uuid, held uuid) RETURNS jsonb LANGUAGE plpgsql
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
CREATE OR REPLACE FUNCTION kwdbml._check_may_compare(m kwdbml.model, j kwdbml.job) RETURNS void LANGUAGE plpgsql STABLE
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
CREATE OR REPLACE FUNCTION kwdbml._environment(declared_framework text, declared_runtime text, on_engine text) RETURNS jsonb
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

-- -------- sql/functions/worker/worker_fail.sql
-- Contract: the end of an attempt that did not succeed. may_retry: the job is queued again while it has retries left;
-- otherwise it is FAILED with this error. Answers what the job is now; a job that was canceled stays canceled.
CREATE OR REPLACE FUNCTION kwdbml.worker_fail(job uuid, held uuid, new_error jsonb, may_retry boolean) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    j kwdbml.job;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job FOR UPDATE;
    UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = new_error ->> 'type', updated = clock_timestamp()
    WHERE t.job_id = job AND t.number = a.number;
    IF j.status <> 'RUNNING' THEN
        RETURN j.status;
    END IF;
    IF may_retry AND a.number <= j.retries THEN
        PERFORM pg_notify('kwdbml_wake', '');
        RETURN 'RUNNING';
    END IF;
    UPDATE kwdbml.job b SET status = 'FAILED', error = new_error WHERE b.id = job;
    RETURN 'FAILED';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_fail(uuid, uuid, jsonb, boolean) IS 'for workers: ends an attempt that did not succeed';

-- Contract: the attempt of a job that has ended otherwise (canceled): nothing of it runs any more.
CREATE OR REPLACE FUNCTION kwdbml.worker_end(job uuid, held uuid) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE kwdbml.attempt a SET ended = clock_timestamp(), outcome = 'CANCELED', updated = clock_timestamp()
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
END;
COMMENT ON FUNCTION kwdbml.worker_end(uuid, uuid) IS 'for workers: nothing runs for a canceled job any more';

-- Contract: gives an attempt back: it costs no retry, and the caller holds it no more. One whose run was not launched
-- goes to whoever comes first; a launched one to a worker of its host, which finds the run, and to others after the
-- lease, as if nobody had given it back.
CREATE OR REPLACE FUNCTION kwdbml.worker_release(job uuid, held uuid) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a SET token = gen_random_uuid(), worker = '',
        lease_until = CASE WHEN a.phase = 'staging' THEN '-infinity' ELSE a.lease_until END,
        stagings = greatest(a.stagings - (a.phase = 'staging')::integer, 0)
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    PERFORM pg_notify('kwdbml_wake', '');
END
$$;
COMMENT ON FUNCTION kwdbml.worker_release(uuid, uuid) IS 'for workers: lets another worker have the job';

-- -------- sql/functions/worker/worker_heartbeat.sql
-- Contract: renews the leases of the attempts that are still held, and says how their jobs stand; a token that is
-- missing from the answer is lost.
CREATE OR REPLACE FUNCTION kwdbml.worker_heartbeat(tokens uuid[], lease interval) RETURNS TABLE (token uuid, status text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- one that is locked is being landed or ended by whoever holds it: it must not keep the others from being renewed
    WITH free AS (
        SELECT a.job_id, a.number FROM kwdbml.attempt a
        WHERE a.token = ANY (tokens) AND a.ended IS NULL FOR UPDATE SKIP LOCKED),
    renewed AS (
        UPDATE kwdbml.attempt a SET lease_until = clock_timestamp() + lease
        FROM free f WHERE (a.job_id, a.number) = (f.job_id, f.number))
    SELECT a.token, j.status::text FROM kwdbml.attempt a JOIN kwdbml.job j ON j.id = a.job_id
    WHERE a.token = ANY (tokens) AND a.ended IS NULL;
END;
COMMENT ON FUNCTION kwdbml.worker_heartbeat(uuid[], interval) IS 'for workers: keeps what they hold';

-- Contract: what the worker knows of an attempt, for people to see; NULL leaves a field as it is, but staging's step
-- (the rows read) ends with it, and progress is always of now.
CREATE OR REPLACE FUNCTION kwdbml.worker_update(job uuid, held uuid, new_phase text, new_step text, new_progress real, new_handle jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a
    SET phase = coalesce(new_phase, a.phase), step = CASE WHEN a.phase = 'staging' AND new_phase <> a.phase THEN new_step ELSE coalesce(new_step, a.step) END,
        progress = new_progress,
        handle = coalesce(new_handle, a.handle), updated = clock_timestamp()
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    IF NOT FOUND THEN
        PERFORM kwdbml._fence(job, held);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_update(uuid, uuid, text, text, real, jsonb) IS 'for workers: phase, step, progress and handle of an attempt';

-- Contract: stores lines [{seq, at (seconds), step, stream, line}]; again is harmless. Lines from cut_from to cut_to
-- are gone from the middle: one line says so in their place.
CREATE OR REPLACE FUNCTION kwdbml.worker_log(job uuid, held uuid, lines jsonb, cut_from bigint, cut_to bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
BEGIN
    INSERT INTO kwdbml.job_log (job_id, attempt, seq, at, step, stream, line)
    SELECT job, a.number, l.seq, to_timestamp(l.at), l.step, l.stream, l.line
    FROM jsonb_to_recordset(lines) AS l(seq bigint, at double precision, step text, stream text, line text)
    ON CONFLICT DO NOTHING;
    IF cut_from IS NOT NULL THEN
        DELETE FROM kwdbml.job_log l WHERE l.job_id = job AND l.attempt = a.number AND l.seq BETWEEN cut_from AND cut_to;
        INSERT INTO kwdbml.job_log (job_id, attempt, seq, at, step, stream, line)
        VALUES (job, a.number, cut_from, clock_timestamp(), coalesce(a.step, ''), 'kwdbml',
                format('[%s lines cut: only the first 1 MiB and the last 9 MiB are kept]', cut_to - cut_from + 1));
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_log(uuid, uuid, jsonb, bigint, bigint) IS 'for workers: what a job printed';

-- -------- sql/functions/worker/worker_land.sql
-- Contract: the end of a successful job, in the transaction that stored its artefacts or rows: version, metrics and
-- status together, or nothing. The job's row is locked last; it lands only if the job is RUNNING and the token is held.
-- outcome: {metrics, rows_read, rows_dropped, rows_written, main_score, data_hash, libraries, result,
--           artefacts: [{id, bytes, sha256}], better: higher or lower,
--           held_out: {hash, rows, metrics, problem, active: {metrics, problem}}}
CREATE OR REPLACE FUNCTION kwdbml.worker_land(job uuid, held uuid, outcome jsonb) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    answer jsonb := outcome -> 'result';
    decided jsonb;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    IF j.type = 'TRAIN' THEN
        decided := kwdbml._land_version(j, a, spec, outcome);
    ELSIF j.type = 'EVALUATE' THEN
        -- the model first, then its version, as everybody locks them
        UPDATE kwdbml.model m SET last_updated = clock_timestamp()
        FROM kwdbml.model_version v WHERE v.id = j.model_version_id AND m.id = v.model_id;
        UPDATE kwdbml.model_version v SET last_metrics = kwdbml._told_metrics(j, outcome -> 'metrics') WHERE v.id = j.model_version_id;
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
        libraries = outcome -> 'libraries', decision = decided,
        pipeline_hash = (SELECT p.content_hash FROM kwdbml.pipeline p WHERE p.id = b.pipeline_id)
    WHERE b.id = job AND b.status = 'RUNNING';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % has ended meanwhile', job USING ERRCODE = '55000', HINT = 'It was canceled or removed.';
    END IF;
    RETURN 'SUCCEEDED';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_land(uuid, uuid, jsonb) IS 'for workers: the one way to SUCCEEDED';

-- Contract: the next version of the model, made with the model when it is new; 42710 and 42501 as at the call. Answers
-- the decision of settings.promote, which is taken while the model is locked; NULL without it.
CREATE OR REPLACE FUNCTION kwdbml._land_version(j kwdbml.job, a kwdbml.attempt, spec jsonb, outcome jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m kwdbml.model;
    p kwdbml.pipeline;
    promotes constant boolean := j.settings ? 'promote';
    goes_live boolean := promotes OR coalesce((j.settings ->> 'immediately_deploy')::boolean, false);
    version_id uuid;
    decided jsonb;
BEGIN
    SELECT * INTO STRICT p FROM kwdbml.pipeline b WHERE b.id = j.pipeline_id;
    m := kwdbml._model_to_extend(
        -- the object part holds no dot, the schema part may
        regexp_replace(j.model_name, '\.[^.]*$', ''), regexp_replace(j.model_name, '^.*\.', ''),
        format('Model trained by pipeline %s.', j.pipeline_name), j.creator, p.problem_type, p.features, p.target,
        coalesce((j.settings ->> 'new_version_if_exists')::boolean, false), goes_live);
    IF promotes THEN
        PERFORM kwdbml._check_may_compare(m, j);
        decided := kwdbml._decide(m, j, a.compared_version_id, outcome);
    END IF;
    goes_live := coalesce((decided ->> 'promoted')::boolean, goes_live OR m.next_version = 1);
    IF goes_live THEN
        UPDATE kwdbml.model_version v SET active = false WHERE v.model_id = m.id AND v.active;
    END IF;
    INSERT INTO kwdbml.model_version (model_id, version, active, creator, framework, runtime, algorithm, hyperparameters, last_metrics,
        pipeline_name, pipeline_hash, job_id, data_query, data_hash, rows_read, libraries, duration, holdout_hash, holdout_metrics)
    VALUES (m.id, m.next_version, goes_live, j.creator, p.framework, p.runtime,
        CASE WHEN NOT (spec ->> 'user_code')::boolean THEN p.algorithm END, coalesce(spec -> 'hyperparameters', '{}'),
        outcome -> 'metrics', j.pipeline_name, p.content_hash, j.id, j.data_query, outcome ->> 'data_hash',
        (outcome ->> 'rows_read')::bigint, outcome -> 'libraries', clock_timestamp() - a.started,
        outcome -> 'held_out' ->> 'hash', nullif(outcome -> 'held_out' -> 'metrics', 'null'))
    RETURNING id INTO version_id;
    UPDATE kwdbml.model b SET next_version = b.next_version + 1, last_updated = clock_timestamp() WHERE b.id = m.id;
    UPDATE kwdbml.artefact f SET model_version_id = version_id, bytes = r.bytes, sha256 = r.sha256
    FROM jsonb_to_recordset(outcome -> 'artefacts') AS r(id uuid, bytes bigint, sha256 text)
    WHERE f.id = r.id AND num_nonnulls(f.pipeline_id, f.model_version_id) = 0;
    RETURN decided;
END
$$;
COMMENT ON FUNCTION kwdbml._land_version(kwdbml.job, kwdbml.attempt, jsonb, jsonb) IS 'adds a trained version';
REVOKE ALL ON FUNCTION kwdbml._land_version(kwdbml.job, kwdbml.attempt, jsonb, jsonb) FROM PUBLIC;

-- -------- sql/functions/worker/worker_result_open.sql
-- Contract: in the final transaction of a BATCH_PREDICT job: makes the table that the worker COPYs into, in our own
-- schema, because the worker has no right on anybody's. Whether the creator may have the result where it is to go, and
-- whether code of a user would run there, is checked now for an early answer and in _result_close for good.
CREATE OR REPLACE FUNCTION kwdbml.worker_result_open(job uuid, held uuid, OUT table_schema text, OUT table_name text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    place text[];
    exists_already boolean;
    denied text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    columns := kwdbml._result_columns(j.data_columns, spec -> 'target');
    place := kwdbml._result_place(j.settings ->> 'result_table');
    exists_already := kwdbml._check_result_table(place[1], place[2], columns, j.settings ->> 'action_if_exists', j.creator) IS NOT NULL;
    SELECT c ->> 'type' INTO denied FROM jsonb_array_elements(j.data_columns) AS c
    WHERE NOT has_type_privilege(j.creator, kwdbml._base_type((c ->> 'oid')::oid), 'USAGE') LIMIT 1;
    IF denied IS NOT NULL THEN
        RAISE EXCEPTION 'permission denied for type %', denied USING ERRCODE = '42501', HINT = 'You need USAGE on it.';
    END IF;
    table_schema := 'kwdbml';
    table_name := kwdbml._result_name(held);
    EXECUTE format('CREATE %s TABLE kwdbml.%I (%s)', CASE WHEN exists_already THEN 'UNLOGGED' ELSE '' END, table_name,
                   (SELECT string_agg(format('%I %s', c ->> 'name', c ->> 'type'), ', ' ORDER BY n)
                    FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n)));
    -- The text above names types, and a name can have gone to another type since: what was made must be what was meant,
    -- or the worker's COPY would run a domain's CHECK.
    PERFORM kwdbml._check_made(to_regclass(format('kwdbml.%I', table_name)), columns);
    EXECUTE format('GRANT INSERT ON kwdbml.%I TO %I', table_name, session_user);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_result_open(uuid, uuid) IS 'for workers: makes the table that takes a job''s rows';

CREATE OR REPLACE FUNCTION kwdbml._result_name(held uuid) RETURNS text LANGUAGE sql IMMUTABLE
RETURN '_result_' || pg_catalog.replace(held::text, '-', '');
COMMENT ON FUNCTION kwdbml._result_name(uuid) IS 'the name of the table that takes a job''s rows until it lands';

-- Contract: 55P03, which is tried again, unless a table that we have made has these columns, by the OIDs of their types.
CREATE OR REPLACE FUNCTION kwdbml._check_made(made oid, columns jsonb) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF made IS NULL OR kwdbml._shape_difference(made, columns) IS NOT NULL OR kwdbml._runs_code_on_insert(made) IS NOT NULL THEN
        RAISE EXCEPTION 'a type of the result changed its name meanwhile' USING ERRCODE = '55P03', HINT = 'Try again.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_made(oid, jsonb) IS 'whether a table that we have made is the one that was meant';

-- Contract: the schema's OID, its name held until the transaction ends: otherwise another schema could take it, with a
-- table of the same name that runs code, after the check; no lock on a table forbids that. By OID, because a wait for
-- somebody's rename ends with a row that a search by name would silently not lock.
CREATE OR REPLACE FUNCTION kwdbml._hold_schema(wanted text) RETURNS oid LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    home oid := to_regnamespace(quote_ident(wanted));
    found_name text;
BEGIN
    IF home IS NOT NULL THEN
        SELECT n.nspname INTO found_name FROM pg_namespace n WHERE n.oid = home FOR KEY SHARE;
        IF found_name IS DISTINCT FROM wanted THEN
            RAISE EXCEPTION 'schema "%" changed its name meanwhile', wanted USING ERRCODE = '55P03', HINT = 'Try again.';
        END IF;
    END IF;
    RETURN home;
END
$$;
COMMENT ON FUNCTION kwdbml._hold_schema(text) IS 'keeps a schema under its name until the transaction ends';
REVOKE ALL ON FUNCTION kwdbml._hold_schema(text) FROM PUBLIC;

-- Contract: the rows go where they belong: the table moves to its schema and its owner when there is none of its name,
-- else they are inserted into the one there is, locked against everything that could make the INSERT run somebody's code.
-- After the check, tables are meant by OID: a name is only what somebody calls it now.
CREATE OR REPLACE FUNCTION kwdbml._result_close(j kwdbml.job, held uuid, target jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours oid := to_regclass(format('kwdbml.%I', kwdbml._result_name(held)));
    place text[] := kwdbml._result_place(j.settings ->> 'result_table');
    home text := place[1];
    object text := place[2];
    action text := j.settings ->> 'action_if_exists';
    columns jsonb := kwdbml._result_columns(j.data_columns, target);
    theirs oid;
    names text;
BEGIN
    PERFORM kwdbml._check_made(ours, columns);
    PERFORM kwdbml._hold_schema(home);
    theirs := kwdbml._check_result_table(home, object, columns, action, j.creator);
    IF theirs IS NULL THEN
        IF (SELECT c.relpersistence FROM pg_class c WHERE c.oid = ours) <> 'p' THEN
            EXECUTE format('ALTER TABLE %s SET LOGGED', ours::regclass);  -- the table there was has vanished meanwhile
        END IF;
        EXECUTE format('REVOKE INSERT ON %s FROM %I', ours::regclass, session_user);
        EXECUTE format('ALTER TABLE %s SET SCHEMA %I', ours::regclass, home);
        EXECUTE format('ALTER TABLE %s RENAME TO %I', ours::regclass, object);
        EXECUTE format('ALTER TABLE %s OWNER TO %I', ours::regclass, j.creator);
        RETURN;
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', theirs::regclass);
    -- now that nobody can change it: is it still what was checked, and is it what we have locked?
    IF kwdbml._check_result_table(home, object, columns, action, j.creator) IS DISTINCT FROM theirs OR NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = theirs
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
           AND l.mode = 'ShareRowExclusiveLock' AND l.granted) THEN
        RAISE EXCEPTION 'result table %.% changed its name meanwhile', home, object USING ERRCODE = '55P03', HINT = 'Try again.';
    END IF;
    IF action = 'replace' THEN
        EXECUTE format('DELETE FROM ONLY %s', theirs::regclass);
    END IF;
    SELECT string_agg(format('%I', c ->> 'name'), ', ' ORDER BY n) INTO names
    FROM jsonb_array_elements(columns) WITH ORDINALITY AS x(c, n);
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM %s', theirs::regclass, names, names, ours::regclass);
    EXECUTE format('DROP TABLE %s', ours::regclass);
END
$$;
COMMENT ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) IS 'puts a job''s rows where they belong';
REVOKE ALL ON FUNCTION kwdbml._result_close(kwdbml.job, uuid, jsonb) FROM PUBLIC;

-- -------- sql/functions/worker/worker_spec.sql
-- Contract: what a worker needs to know of a job, all checked again as it stands now, because no request column is
-- trusted: the creator is the same role, has the rights still, and what is named is there. Else the error of the job.
CREATE OR REPLACE FUNCTION kwdbml.worker_spec(job uuid, held uuid) RETURNS jsonb LANGUAGE plpgsql
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
CREATE OR REPLACE FUNCTION kwdbml._check_model_name(model_name text, who name) RETURNS void LANGUAGE plpgsql STABLE
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
CREATE OR REPLACE FUNCTION kwdbml._check_creator(creator name, creator_oid oid) RETURNS void LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regrole(quote_ident(creator))::oid IS DISTINCT FROM creator_oid THEN
        RAISE EXCEPTION 'role "%" was dropped after it submitted the job', creator
            USING ERRCODE = '42704', HINT = 'A new role of the same name is another person: let it submit the job again.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_creator(name, oid) IS 'whether a job''s creator is still the same role';

-- -------- sql/functions/worker/worker_stage.sql
-- How the data of a job is read: with the creator's rights, in a transaction that always ends in ROLLBACK.
-- The story, and what was tried against it, is in docs/security.md.

-- Contract: what must be read for a job: [{column, staged, expression, source, role}], role feature, target or carried;
-- expression has %s where the source column's name goes. 42703 and 22023 when the data cannot serve.
CREATE OR REPLACE FUNCTION kwdbml._stage_columns(j kwdbml.job, features jsonb, target jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer jsonb := '[]';
    seen jsonb := '{}';  -- expression → column: what two need is read once
    expression text;
    w record;
    how record;
BEGIN
    FOR w IN
        SELECT f.name, f.type AS wanted, 'feature' AS role FROM jsonb_to_recordset(features) AS f(name text, type text)
        UNION ALL
        SELECT t.name, t.type, 'target' FROM jsonb_to_recordset(target) AS t(name text, type text) WHERE j.type <> 'BATCH_PREDICT'
        UNION ALL
        SELECT c.name, NULL, 'carried' FROM jsonb_to_recordset(j.data_columns) AS c(name text) WHERE j.type = 'BATCH_PREDICT'
    LOOP
        SELECT h.staged, h.expression INTO how
        FROM jsonb_to_recordset(j.data_columns) AS c(name text, oid oid),
             LATERAL (SELECT * FROM kwdbml._feature_cast(c.oid, w.wanted) WHERE w.role <> 'carried'
                      UNION ALL SELECT * FROM kwdbml._carried(c.oid) WHERE w.role = 'carried') AS h
        WHERE c.name = w.name;
        IF how.staged IS NULL THEN
            RAISE EXCEPTION 'column "%" of the data cannot be read as %', w.name, coalesce(w.wanted, 'part of the result')
                USING ERRCODE = '22023', HINT = 'Cast it in the query, or leave it out.';
        END IF;
        expression := replace(how.expression, '%s', format('q.%I', w.name));
        IF NOT seen ? expression THEN
            seen := seen || jsonb_build_object(expression, 'c' || (SELECT count(*) FROM jsonb_object_keys(seen)));
        END IF;
        answer := answer || jsonb_build_array(jsonb_build_object(
            'name', w.name, 'role', w.role, 'wanted', w.wanted, 'staged', how.staged,
            'expression', expression, 'column', seen ->> expression));
    END LOOP;
    IF (SELECT count(*) FROM jsonb_object_keys(seen)) > 1600 THEN
        RAISE EXCEPTION 'the job needs more than 1,600 columns'
            USING ERRCODE = '54000', HINT = 'Select fewer columns, or cast them to double precision in the query.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._stage_columns(kwdbml.job, jsonb, jsonb) IS 'which columns a job reads, and how';

-- Contract: true when reading these columns [{name, oid}] of the relation runs no code of a user, whoever reads: an
-- ordinary table, alone, of built-in types, which are those that the expressions were made for (the request may lie),
-- without anything that the planner would evaluate (expressions of indexes or statistics). Holds for as long as the
-- caller has the table locked against DDL.
CREATE OR REPLACE FUNCTION kwdbml._reads_plainly(rel oid, claimed jsonb) RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT c.relkind = 'r' AND c.relpersistence <> 't' AND NOT c.relrowsecurity AND NOT c.relispartition
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid OR i.inhrelid = c.oid)
        AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
        AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL))
        AND NOT EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = c.oid AND s.stxexprs IS NOT NULL)
        AND NOT EXISTS (
            SELECT FROM jsonb_to_recordset(claimed) AS w(name text, oid oid)
            WHERE NOT EXISTS (
                SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
                  AND a.attname::text = w.name AND a.atttypid = w.oid
                  AND t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace))
    FROM pg_class c WHERE c.oid = rel;
END;
COMMENT ON FUNCTION kwdbml._reads_plainly(oid, jsonb) IS 'whether reading a table can run code of a user';

-- Contract: the oid of the job's relation, locked so that it stays plain, when it may be read the fast way; else NULL.
CREATE OR REPLACE FUNCTION kwdbml._lock_plain(j kwdbml.job, claimed jsonb) RETURNS oid LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel oid := to_regclass(j.data_relation);
BEGIN
    IF rel IS NULL OR NOT kwdbml._reads_plainly(rel, claimed)
       OR NOT (SELECT has_schema_privilege(j.creator, c.relnamespace, 'USAGE') FROM pg_class c WHERE c.oid = rel) THEN
        RETURN NULL;
    END IF;
    -- against ALTER SCHEMA RENAME, by which another table could take the name; who has no SELECT locks nothing
    IF NOT has_table_privilege(j.creator, rel, 'SELECT') THEN
        RETURN NULL;
    END IF;
    PERFORM FROM pg_namespace n WHERE n.oid = (SELECT c.relnamespace FROM pg_class c WHERE c.oid = rel) FOR KEY SHARE NOWAIT;
    -- against CREATE INDEX and CREATE STATISTICS; whoever is in our way just sends us the other way
    EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', rel::regclass);
    RETURN CASE WHEN to_regclass(j.data_relation) = rel::regclass AND kwdbml._reads_plainly(rel, claimed) THEN rel END;
EXCEPTION WHEN lock_not_available OR undefined_table OR invalid_name OR syntax_error THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kwdbml._lock_plain(kwdbml.job, jsonb) IS 'locks a table that can be read without running code of a user';
REVOKE ALL ON FUNCTION kwdbml._lock_plain(kwdbml.job, jsonb) FROM PUBLIC;

-- Contract: from here on the open transaction is READ ONLY and reads as the session did in which the job was submitted,
-- but for the search_path, which is set outside: here it is pinned.
CREATE OR REPLACE FUNCTION kwdbml._reads_as(j kwdbml.job) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('TimeZone', j.session ->> 'TimeZone', true), set_config('DateStyle', j.session ->> 'DateStyle', true),
            set_config('IntervalStyle', j.session ->> 'IntervalStyle', true),
            -- or a seeded split is not repeatable
            set_config('synchronize_seqscans', 'off', true),
            set_config('transaction_read_only', 'on', true);
END
$$;
COMMENT ON FUNCTION kwdbml._reads_as(kwdbml.job) IS 'makes the transaction read as a job''s session would';
REVOKE ALL ON FUNCTION kwdbml._reads_as(kwdbml.job) FROM PUBLIC;

-- Contract: prepares the reading in the open transaction, which from here on is READ ONLY and must be rolled back.
-- (statement to COPY, search_path to set before it, columns). The text of the query is compiled only inside a function
-- that belongs to the creator: SET ROLE would be no boundary, since a function in the query can undo it. Where no code of
-- a user can run, a view of the creator's does the same at twice the speed. Both vanish with the ROLLBACK.
CREATE OR REPLACE FUNCTION kwdbml.worker_stage(job uuid, held uuid, OUT statement text, OUT path text, OUT columns jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    handle text := '_stage_' || replace(gen_random_uuid()::text, '-', '');  -- not the token: the query can see it
    plain oid;
    expressions text;
    results text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    columns := kwdbml._stage_columns(j, spec -> 'features', spec -> 'target');
    SELECT string_agg(format('%s AS %I', c.expression, c."column"), ', ' ORDER BY c.n),
           string_agg(format('%I pg_catalog.%I', c."column", c.staged), ', ' ORDER BY c.n)
    INTO expressions, results
    FROM (SELECT DISTINCT ON (x ->> 'column') x ->> 'column', x ->> 'expression', x ->> 'staged', substring(x ->> 'column' FROM 2)::int
          FROM jsonb_array_elements(columns) AS x) AS c("column", expression, staged, n);
    plain := kwdbml._lock_plain(j, (SELECT jsonb_agg(c) FROM jsonb_array_elements(j.data_columns) AS c
                                    WHERE c ->> 'name' IN (SELECT x ->> 'name' FROM jsonb_array_elements(columns) AS x)));
    IF plain IS NOT NULL THEN
        EXECUTE format('CREATE VIEW kwdbml.%I AS SELECT %s FROM ONLY %s AS q', handle, expressions, plain::regclass);
        EXECUTE format('ALTER VIEW kwdbml.%I OWNER TO %I', handle, j.creator);
        EXECUTE format('GRANT SELECT ON kwdbml.%I TO %I', handle, session_user);
        statement := format('SELECT * FROM kwdbml.%I', handle);
    ELSE
        EXECUTE format('CREATE FUNCTION kwdbml.%I() RETURNS TABLE (%s) LANGUAGE sql VOLATILE SECURITY DEFINER AS %L', handle, results,
                       format(E'SELECT %s FROM (\n%s\n) AS q', expressions, j.data_query));
        EXECUTE format('REVOKE ALL ON FUNCTION kwdbml.%I() FROM PUBLIC', handle);
        EXECUTE format('GRANT EXECUTE ON FUNCTION kwdbml.%I() TO %I', handle, session_user);
        EXECUTE format('ALTER FUNCTION kwdbml.%I() OWNER TO %I', handle, j.creator);
        -- a target list streams, FROM would spool everything to disk first; one column is no composite
        statement := CASE WHEN position(', ' IN results) > 0
            THEN format('SELECT (r).* FROM (SELECT kwdbml.%I() AS r OFFSET 0) AS s', handle)
            ELSE format('SELECT r AS c0 FROM (SELECT kwdbml.%I() AS r OFFSET 0) AS s', handle) END;
    END IF;
    PERFORM kwdbml._reads_as(j);
    path := j.session ->> 'search_path';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_stage(uuid, uuid) IS 'for workers: prepares the reading of a job''s data as its creator';

-- Contract: nothing but a warm backend: what worker_stage calls is compiled and its catalogue rows are cached.
CREATE OR REPLACE FUNCTION kwdbml.worker_rehearse() RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM kwdbml._fence(NULL, NULL);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    PERFORM kwdbml._check_creator(current_user, (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user)),
            kwdbml._setting('default_ttl'), kwdbml._model_right(NULL, 'EVALUATE', current_user),
            kwdbml._pipeline_right(NULL, 'TRAIN', current_user), kwdbml._lock_plain(NULL, '[]'),
            kwdbml._stage_columns(NULL, '[]', '[]'), kwdbml._reads_plainly('kwdbml.job'::regclass, '[]');
    PERFORM kwdbml._feature_cast('int8'::regtype, 'INT'), kwdbml._carried('numeric'::regtype),
            date_part('epoch', now()), format('%I', 'a'), to_regclass('kwdbml.job'), format_type('int8'::regtype, -1);
END
$$;
COMMENT ON FUNCTION kwdbml.worker_rehearse() IS 'for workers: warms up a backend that will stage';

-- -------- sql/functions/worker/worker_trace.sql
-- requires: worker_stage

-- Contract: when the reading that worker_stage prepared has failed with a data exception: prepares another, which looks
-- for the column whose cast fails, under the same rules (read only, rolled back, the text of the query compiled only
-- inside a function that belongs to the creator). The statement answers {column, wanted, said} as text, or NULL when
-- every cast works; it raises what the query itself raises. suspects are the columns that it tries; there is no
-- statement without any. Row by row, since no value can be tried without catching what it raises: slower, for once.
CREATE OR REPLACE FUNCTION kwdbml.worker_trace(job uuid, held uuid, OUT statement text, OUT path text, OUT suspects jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    spec jsonb := kwdbml.worker_spec(job, held);
    j kwdbml.job;
    handle text := '_trace_' || replace(gen_random_uuid()::text, '-', '');
    casts text;
    tries text;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job;
    -- casts from other types than these cannot fail
    SELECT jsonb_agg(w.name), string_agg(w.expression, ', '), string_agg(format(
        E'BEGIN PERFORM %s;\nEXCEPTION WHEN data_exception THEN RETURN pg_catalog.jsonb_build_object('
        '''column'', %L, ''wanted'', %L, ''said'', SQLERRM)::text;\nEND;\n', w.expression, w.name, w.wanted), '')
    INTO suspects, casts, tries
    FROM jsonb_to_recordset(kwdbml._stage_columns(j, spec -> 'features', spec -> 'target'))
             AS w(name text, role text, wanted text, expression text)
        JOIN jsonb_to_recordset(j.data_columns) AS c(name text, oid oid) ON c.name = w.name
    WHERE w.role <> 'carried' AND w.wanted <> 'STRING' AND kwdbml._base_type(c.oid)
        = ANY (ARRAY['text', 'varchar', 'bpchar', 'numeric', 'float4', 'float8']::regtype[]::oid[]);
    IF suspects IS NOT NULL THEN
        -- the query's own names go before the function's
        EXECUTE format('CREATE FUNCTION kwdbml.%I() RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS %L', handle, format(
            E'#variable_conflict use_column\nDECLARE q record;\nBEGIN\nFOR q IN SELECT * FROM (\n%s\n) AS q LOOP\n'
            'BEGIN PERFORM %s;\nEXCEPTION WHEN data_exception THEN\n%sEND;\nEND LOOP;\nRETURN NULL;\nEND',
            j.data_query, casts, tries));
        EXECUTE format('REVOKE ALL ON FUNCTION kwdbml.%I() FROM PUBLIC', handle);
        EXECUTE format('GRANT EXECUTE ON FUNCTION kwdbml.%I() TO %I', handle, session_user);
        EXECUTE format('ALTER FUNCTION kwdbml.%I() OWNER TO %I', handle, j.creator);
        statement := format('SELECT kwdbml.%I()', handle);
    END IF;
    PERFORM kwdbml._reads_as(j), set_config('statement_timeout', '60s', true);
    path := j.session ->> 'search_path';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_trace(uuid, uuid) IS 'for workers: looks for the column of a job''s data that cannot be cast';

-- -------- sql/views/jobs.sql
-- For people and BI tools: flat, ids as text, the phase beside the status. Nothing in it is volatile: a page of a list
-- would evaluate every row first.
CREATE OR REPLACE VIEW kwdbml.jobs WITH (security_invoker = true) AS
SELECT j.id::text AS id,
       j.type::text AS type,
       j.status::text AS status,
       j.pipeline_name,
       j.model_name,
       j.model_version,
       j.creator::text AS creator,
       j.created,
       j.finished,
       j.settings,
       j.result,
       j.error,
       CASE
           WHEN j.status = 'RUNNING' THEN coalesce(CASE WHEN a.ended IS NULL THEN a.phase END, 'queued')
           WHEN j.status = 'CANCELED' AND a.number IS NOT NULL AND a.ended IS NULL THEN 'canceling'
           ELSE pg_catalog.lower(j.status::text)
       END AS phase,
       CASE WHEN j.status = 'SUCCEEDED' THEN 1 ELSE a.progress END::double precision AS progress,
       a.step,
       j.queue,
       CASE j.priority WHEN 1 THEN 'HIGH' WHEN -1 THEN 'LOW' ELSE 'NORMAL' END AS priority,
       j.labels,
       j.annotations,
       j.engine,
       a.number AS attempt,
       nullif(a.worker, '') AS worker,
       a.started,
       greatest(j.updated, a.updated) AS updated,
       coalesce(j.finished, CASE WHEN j.status = 'RUNNING' THEN pg_catalog.statement_timestamp() END) - a.started AS duration,
       j.rows_read,
       j.rows_dropped,
       j.rows_written,
       j.main_score,
       CASE WHEN j.status = 'RUNNING' AND (a.number IS NULL OR a.ended IS NOT NULL OR a.worker = '') THEN 'a worker for engine ' || j.engine END AS waiting_for,
       j.decision,
       j.data_query,
       j.data_hash,
       j.pipeline_hash,
       j.libraries
FROM kwdbml.job j
LEFT JOIN LATERAL (
    SELECT t.number, t.worker, t.phase, t.step, t.progress, t.started, t.updated, t.ended
    FROM kwdbml.attempt t WHERE t.job_id = j.id ORDER BY t.number DESC LIMIT 1) a ON true;
COMMENT ON VIEW kwdbml.jobs IS 'your jobs (an admin''s view: all), one flat row each, with phase, progress and lineage';

-- -------- sql/views/usable.sql
-- The versions that the caller may use in some way, which needs no SELECT on the model: who was granted PREDICT sees these
-- columns and no others. The one view that reads with its owner's rights, because it asks who reads it: in a view, unlike
-- in a SECURITY DEFINER function, current_user is the caller.
CREATE OR REPLACE VIEW kwdbml._usable WITH (security_barrier = true) AS
SELECT v.id, v.model_id, v.version, v.active, v.algorithm
FROM kwdbml.model_version v
JOIN kwdbml.model m ON m.id = v.model_id
WHERE kwdbml._owns(current_user, m.creator)
   OR EXISTS (SELECT FROM kwdbml.model_privilege g WHERE g.model_id = m.id AND kwdbml._has_role(current_user, g.grantee));
COMMENT ON VIEW kwdbml._usable IS 'number and algorithm of the versions of models on which you have some privilege';

-- -------- sql/grants.sql
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
