-- Bind an idempotency key to another order, if this owner has it. Returns 1 if so, otherwise 0.
-- KEYS: idempotency key. ARGV: owner, order.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'order', ARGV[2])
return 1
