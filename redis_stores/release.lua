-- Give the units of a reservation back, once, and leave a mark that refuses a later attempt to
-- reserve; the mark is left also where nothing was reserved. Returns 'released' or 'shipped'.
-- KEYS: product, reservation, live reservations. ARGV: order pk, seconds to keep the mark.
local before = redis.call('HMGET', KEYS[2], 'state', 'quantity')
if before[1] == 'shipped' or before[1] == 'released' then
  return before[1]
end
if before[1] == 'held' then
  redis.call('HINCRBY', KEYS[1], 'available', before[2])
  redis.call('HINCRBY', KEYS[1], 'reserved', -before[2])
  redis.call('ZREM', KEYS[3], ARGV[1])
end
redis.call('HSET', KEYS[2], 'state', 'released')
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'released'
