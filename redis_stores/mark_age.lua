-- Return how many seconds old a mark is by the clock of this Redis; nothing where there is none.
-- KEYS: marks. ARGV: what the mark says.
local since = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not since then
  return false
end
local time = redis.call('TIME')
return tostring(time[1] + time[2] / 1000000 - since)
