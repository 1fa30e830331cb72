INSERT INTO bench.queue (payload) VALUES ('{"type": "Issue", "id": 42, "from": "open", "to": "closed"}');
