-- Claim an idempotency key for an owner, until some seconds from now by the clock of this Redis,
-- unless another owner has it. A new key is bound to the given order. Returns {'reused'} when the
-- key came with another request; otherwise {'mine', order} or {'held', order, seconds left}.
-- KEYS: idempotency key. ARGV: request, owner, order, seconds of the lease, seconds to keep the key.
local key = redis.call('HMGET', KEYS[1], 'request', 'order', 'owner', 'until')
if key[1] and key[1] ~= ARGV[1] then
  return {'reused'}
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if key[3] and key[3] ~= ARGV[2] and now < tonumber(key[4]) then
  return {'held', key[2], tostring(tonumber(key[4]) - now)}
end
local order = key[2] or ARGV[3]
redis.call('HSET', KEYS[1], 'request', ARGV[1], 'order', order, 'owner', ARGV[2],
           'until', now + ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return {'mine', order}
