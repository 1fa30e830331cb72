SELECT evinbox.record_event('Quiet', 42, 'viewed', throttle => '1 hour');
