-- Keep a PENDING order, unless there is a record with its key. While the record is PENDING, it can
-- be placed for so many seconds from now. Returns the status of the record that is there now.
-- KEYS: order. ARGV: seconds, then names and values in turn.
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
  status = redis.call('HGET', KEYS[1], 'status')
end
if status == 'PENDING' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'place_by', time[1] + time[2] / 1000000 + ARGV[1])
end
return status
