-- One kind of request for wrk, and at its end one line that a program can read.
-- Arguments: method, body.
function init(args)
  wrk.method = args[1]
  if args[2] then
    wrk.body = args[2]
    wrk.headers["Content-Type"] = "application/json"
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("REPORT %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
