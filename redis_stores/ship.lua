-- Count the units of a reservation as shipped, once; nothing happens where none is known.
-- Returns 'shipped', 'unknown', or 'released' when they were given back or never taken.
-- KEYS: product, reservation, live reservations. ARGV: order pk, seconds to keep the mark.
local before = redis.call('HMGET', KEYS[2], 'state', 'quantity')
if not before[1] then
  return 'unknown'
end
if before[1] == 'shipped' then
  return 'shipped'
end
if before[1] ~= 'held' then
  return 'released'
end
redis.call('HINCRBY', KEYS[1], 'reserved', -before[2])
redis.call('HINCRBY', KEYS[1], 'shipped', before[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], 'state', 'shipped')
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'shipped'
