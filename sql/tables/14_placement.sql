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
