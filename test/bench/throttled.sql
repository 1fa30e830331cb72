\set subject random(1, 1000000000)
SELECT evinbox.record_event('Issue', :subject, 'viewed', 'User:7', throttle => '1 second');
