-- Keep a new record, unless there is one with its key. Returns the field named by ARGV[1] of the
-- record that is there now, so a second run of the same command tells the same.
-- KEYS: record. ARGV: field to return, then names and values in turn.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
end
return redis.call('HGET', KEYS[1], ARGV[1])
