SELECT evinbox.record_event('Issue', 42, 'viewed', 'User:7', throttle => '1 hour');
