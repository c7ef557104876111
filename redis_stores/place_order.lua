-- A PENDING order becomes PLACED with the given fields, if the time in which it can be is not over.
-- Returns all fields of the record there is now (none, where there is none).
-- KEYS: order. ARGV: names and values in turn.
local order = redis.call('HMGET', KEYS[1], 'status', 'place_by')
local time = redis.call('TIME')
if order[1] == 'PENDING' and time[1] + time[2] / 1000000 <= tonumber(order[2]) then
  redis.call('HSET', KEYS[1], 'status', 'PLACED', unpack(ARGV))
  redis.call('HDEL', KEYS[1], 'place_by')
end
return redis.call('HGETALL', KEYS[1])
