-- How SQL reaches Python. PL/Python puts "plpy.Error: " before every message it raises, so nothing is raised there: the
-- answer says what went wrong, and PL/pgSQL raises it in our own words.

-- Contract: puts the server-side Python of this version on the path and its dispatcher into GD, once per backend.
-- SECURITY DEFINER because pg_config() tells ordinary roles nothing.
CREATE FUNCTION kwdbml._load() RETURNS void LANGUAGE plpython3u
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
import sys
path = plpy.execute("SELECT setting FROM pg_config() WHERE name = 'PKGLIBDIR'")[0]['setting'] + '/kwdbml/@VERSION@'
if path not in sys.path: sys.path.insert(0, path)
try:
    from kwdbml import __version__ as found
    from kwdbml.plpy import run
    problem = None if found == '@VERSION@' else f'this connection still runs kwdbml {found}: reconnect'
except ImportError as error:
    problem = f'the server-side Python of kwdbml @VERSION@ is missing or broken ({error}): run kwdbml extension install'
GD['kwdbml @VERSION@'] = run if not problem else lambda *a: ['error', '55000', problem, '', '']
$$;
COMMENT ON FUNCTION kwdbml._load() IS 'loads the server-side Python into this backend';

-- Contract: {ok, value as JSON} or {error, SQLSTATE, message, detail, hint}. function is one that kwdbml/plpy offers.
CREATE FUNCTION kwdbml._python(function text, arguments jsonb, bundles bytea[]) RETURNS text[] LANGUAGE plpython3u AS $$
if 'kwdbml @VERSION@' not in GD: plpy.execute('SELECT kwdbml._load()')
return GD['kwdbml @VERSION@'](plpy, function, arguments, bundles)
$$;
COMMENT ON FUNCTION kwdbml._python(text, jsonb, bytea[]) IS 'the one PL/Python body behind all functions';

-- Contract: the value, or the error with its SQLSTATE, detail and hint.
-- Who calls it is LANGUAGE sql and inlined, where it can be: psql shows each PL/pgSQL function around as a line of CONTEXT.
CREATE FUNCTION kwdbml._call(function text, arguments jsonb, bundles bytea[] DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql AS $$
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
