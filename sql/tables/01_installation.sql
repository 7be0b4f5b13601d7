-- Who we are among all copies of this database. Never dumped: a restored copy must not touch the runs of the original.
CREATE TABLE kwdbml.installation (
    id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
COMMENT ON TABLE kwdbml.installation IS 'which installation this is among the copies of its database';
INSERT INTO kwdbml.installation DEFAULT VALUES;

CREATE FUNCTION kwdbml._installation() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT i.id FROM kwdbml.installation i);
END
$$;
COMMENT ON FUNCTION kwdbml._installation() IS 'the id of this installation; part of the name of every run';
