-- What a job's settings ask for by name, found: asked at the call as the caller, and again when the job is claimed.

-- Contract: what the names in a job's settings mean on the engine (NULL: the default one) for a role: {flavour, NULL when
-- none is named; file_systems by name}. 42704 for what is not there or not the role's, 42501 for an image that nobody
-- allowed, 22023 for what the engine lacks. Of settings it trusts nothing but that they are an object.
CREATE FUNCTION kwdbml._placement(settings jsonb, engine text, who name) RETURNS jsonb LANGUAGE plpgsql STABLE
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
CREATE FUNCTION kwdbml._flavour(flavour_name text) RETURNS jsonb LANGUAGE plpgsql STABLE
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
CREATE FUNCTION kwdbml._check_scalar_resources(resources jsonb) RETURNS void LANGUAGE plpgsql STABLE
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
CREATE FUNCTION kwdbml._file_systems(named text[], who name) RETURNS jsonb LANGUAGE plpgsql STABLE
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
CREATE FUNCTION kwdbml._check_image(image text) RETURNS void LANGUAGE plpgsql STABLE
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
