\set subject random(0, 99999)
SELECT * FROM evinbox.event WHERE subject_type = 'Issue' AND subject_id = :subject::text ORDER BY id DESC LIMIT 20;
