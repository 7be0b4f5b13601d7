-- The versions that the caller may use in some way, which needs no SELECT on the model: who was granted PREDICT sees these
-- columns and no others. The one view that reads with its owner's rights, because it asks who reads it: in a view, unlike
-- in a SECURITY DEFINER function, current_user is the caller.
CREATE VIEW kwdbml._usable WITH (security_barrier = true) AS
SELECT v.id, v.model_id, v.version, v.active, v.algorithm
FROM kwdbml.model_version v
JOIN kwdbml.model m ON m.id = v.model_id
WHERE kwdbml._owns(current_user, m.creator)
   OR EXISTS (SELECT FROM kwdbml.model_privilege g WHERE g.model_id = m.id AND kwdbml._has_role(current_user, g.grantee));
COMMENT ON VIEW kwdbml._usable IS 'number and algorithm of the versions of models on which you have some privilege';
