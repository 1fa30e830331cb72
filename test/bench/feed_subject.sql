\set subject random(0, 99999)
SELECT * FROM evinbox.subject_feed('Issue', :subject);
