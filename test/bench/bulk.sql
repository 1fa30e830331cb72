SELECT evinbox.record_events(events) FROM bench.bulk;
