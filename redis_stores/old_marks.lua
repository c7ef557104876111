-- Return marks that are at least so many seconds old by the clock of this Redis, oldest first.
-- KEYS: marks. ARGV: seconds, how many to skip, how many to return.
local time = redis.call('TIME')
local latest = time[1] + time[2] / 1000000 - ARGV[1]
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', latest, 'LIMIT', ARGV[2], ARGV[3])
