-- What a webhook looks like, for wrk.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["webhook-id"] = "msg_" .. ("x"):rep(27)
wrk.headers["webhook-timestamp"] = "1614265330"
wrk.headers["webhook-signature"] = "v1," .. ("x"):rep(44)
wrk.body = '{"data": {"id": 1, "text": "' .. ("x"):rep(200) .. '"}, "type": "issue.opened", "timestamp": "2026-01-01T00:00:00Z"}'
