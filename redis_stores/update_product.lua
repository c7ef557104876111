-- Change name and price of a product, those that are not empty, in one step.
-- Returns false for a product that is not there; otherwise the name and revision it had before
-- (its own, when this runs a second time), then all its fields.
-- KEYS: product. ARGV: new revision, name, price in cents.
local before = redis.call('HMGET', KEYS[1], 'name', 'revision', 'deleted')
if not before[1] or before[3] then
  return false
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'name', ARGV[2], 'revision', ARGV[1])
end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'price_cents', ARGV[3])
end
return {before[1], before[2], redis.call('HGETALL', KEYS[1])}
