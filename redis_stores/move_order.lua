-- Move an order to another status if it is in one of those given, NONE meaning that there is no
-- record. Returns all fields of the record there is now (none, where there is none).
-- KEYS: order. ARGV: statuses it may be in, separated by spaces; the new status; seconds until the
-- record goes away, 0 for never; then names and values in turn.
local status = redis.call('HGET', KEYS[1], 'status') or 'NONE'
if string.find(' ' .. ARGV[1] .. ' ', ' ' .. status .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'status', ARGV[2], unpack(ARGV, 4))
  if ARGV[3] ~= '0' then
    redis.call('EXPIRE', KEYS[1], ARGV[3])
  end
end
return redis.call('HGETALL', KEYS[1])
