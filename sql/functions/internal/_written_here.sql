-- Contract: given the xmin of a row that the caller sees: whether the transaction that asks has written it. now() would
-- not do: two transactions can begin in the same microsecond.
CREATE FUNCTION kwdbml._written_here(xmin xid) RETURNS boolean LANGUAGE plpgsql VOLATILE
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
