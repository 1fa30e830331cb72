-- For pgbench: one upload, one event, one transaction.
SELECT evinbox.record_event('Package', source, 'uploaded',
		actor => 'Maintainer:' || maintainer,
		metadata => jsonb_build_object(
			'version', version,
			'urgency', nullif(urgency, ''),
			'distribution', distribution,
			'closes', closes),
		occurred_at => uploaded_at)
FROM demo.upload
WHERE n = (SELECT nextval('demo.next_upload'));
