\set follower random(1, 20)
SELECT f.*
FROM (SELECT jsonb_agg(jsonb_build_array('Issue', subject_id)) FROM bench.follow WHERE follower = :follower) AS s (subjects)
	CROSS JOIN LATERAL evinbox.feed(s.subjects) f;
