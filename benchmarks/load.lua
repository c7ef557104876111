-- One kind of request for wrk, and at its end one line that a program can read.
-- Arguments: method, body; for reservations of orders that are new each time, also a file of product
-- pks, of which each request takes one at random.
local ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
local products = {}

function init(args)
  wrk.method = args[1]
  if args[2] then
    wrk.body = args[2]
    wrk.headers["Content-Type"] = "application/json"
  end
  if args[3] then
    math.randomseed(os.time() + tonumber(tostring({}):sub(8), 16) % 1000000)
    for pk in io.lines(args[3]) do
      table.insert(products, pk)
    end
    request = reserve
  end
end

function reserve()
  local order = {"0"}
  for i = 2, 26 do
    local at = math.random(#ALPHABET)
    order[i] = ALPHABET:sub(at, at)
  end
  local product = products[math.random(#products)]
  return wrk.format(nil, "/products/" .. product .. "/reservations/" .. table.concat(order))
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("REPORT %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(99), errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
