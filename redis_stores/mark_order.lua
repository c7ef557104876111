-- Note that a command is under way, with the time of this Redis: every worker compares with the
-- same clock.
-- KEYS: marks. ARGV: what the mark says.
local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], time[1] + time[2] / 1000000, ARGV[1])
