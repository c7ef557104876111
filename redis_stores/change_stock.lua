-- Add to received and available, once per change, never below zero or above the limit on hand.
-- Returns {'done', fields}, {'missing'}, {'insufficient', available} or {'limit'}.
-- KEYS: product, change. ARGV: units to add, limit on hand, seconds to remember the change.
local stock = redis.call('HMGET', KEYS[1], 'available', 'reserved', 'deleted')
if not stock[1] or stock[3] then
  return {'missing'}
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  local available, change = tonumber(stock[1]), tonumber(ARGV[1])
  if available + change < 0 then
    return {'insufficient', available}
  end
  if change > 0 and available + tonumber(stock[2]) + change > tonumber(ARGV[2]) then
    return {'limit'}
  end
  redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
  redis.call('HINCRBY', KEYS[1], 'received', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'available', ARGV[1])
end
return {'done', redis.call('HGETALL', KEYS[1])}
