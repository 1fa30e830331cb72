\set subject random(1, 1000000)
SELECT evinbox.record_event('Issue', :subject, 'status_changed', 'User:7', '{"from": "open", "to": "closed"}');
