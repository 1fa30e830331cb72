\set scope random(0, 199)
SELECT * FROM evinbox.grouped_feed(scope => :scope::text);
