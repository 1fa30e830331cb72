SELECT evinbox.record_event('Busy', 42, 'viewed', throttle => '1 hour');
