\set subject random(1, 1000000)
INSERT INTO bench.event (subject_type, subject_id, action, actor, metadata) VALUES ('Issue', :subject, 'status_changed', 'User:7', '{"from": "open", "to": "closed"}') RETURNING id;
