\set scope random(0, 199)
SELECT * FROM evinbox.scope_feed(:scope::text);
