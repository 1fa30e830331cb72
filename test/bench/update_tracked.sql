\set id random(1, 100000)
UPDATE bench.tracked SET status = CASE status WHEN 'open' THEN 'closed' ELSE 'open' END WHERE id = :id;
