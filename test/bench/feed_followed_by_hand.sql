\set follower random(1, 20)
SELECT e.*
FROM bench.follow f
	CROSS JOIN LATERAL (
		SELECT * FROM evinbox.event
		WHERE subject_type = 'Issue' AND subject_id = f.subject_id
		ORDER BY id DESC LIMIT 20) e
WHERE f.follower = :follower
ORDER BY e.id DESC LIMIT 20;
