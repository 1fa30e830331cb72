SELECT evinbox.record_event('Busy', 42, 'viewed', 'User:7', throttle => '1 hour');
