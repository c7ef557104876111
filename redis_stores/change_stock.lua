-- Add to received and available, once per change, never below zero or above the limit on hand.
-- Returns {'done', fields}, {'before', fields} when another command made this change, {'reused'}
-- when its key came with other units, {'missing'}, {'insufficient', available} or {'limit'}.
-- KEYS: product, change.
-- ARGV: units to add, limit on hand, units and id of this command, seconds to remember the change.
local stock = redis.call('HMGET', KEYS[1], 'available', 'reserved', 'deleted')
if not stock[1] or stock[3] then
  return {'missing'}
end
local outcome = 'done'
local before = redis.call('GET', KEYS[2])
if before and before ~= ARGV[3] then
  if string.match(before, '^%S+') ~= ARGV[1] then
    return {'reused'}
  end
  outcome = 'before'
elseif not before then
  local available, change = tonumber(stock[1]), tonumber(ARGV[1])
  if available + change < 0 then
    return {'insufficient', available}
  end
  if change > 0 and available + tonumber(stock[2]) + change > tonumber(ARGV[2]) then
    return {'limit'}
  end
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[4])
  redis.call('HINCRBY', KEYS[1], 'received', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'available', ARGV[1])
end
return {outcome, redis.call('HGETALL', KEYS[1])}
