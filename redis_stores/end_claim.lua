-- Stop owning an idempotency key, if this owner has it: forget the key, or keep what it says.
-- KEYS: idempotency key. ARGV: owner, 1 to forget.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '1' then
  return redis.call('DEL', KEYS[1])
end
return redis.call('HDEL', KEYS[1], 'owner')
