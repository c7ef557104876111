-- Change name and price of a product, those that are not empty, in one step, once per command.
-- Returns false for a product that is not there; otherwise the name and revision that this command
-- found, then all fields the product has now. Run again after another rename, it must not bring its
-- own name back: the index entries of that are gone by then.
-- KEYS: product, command. ARGV: new revision, name, price in cents, seconds to remember the command.
local product = redis.call('HMGET', KEYS[1], 'name', 'revision', 'deleted')
if not product[1] or product[3] then
  return false
end
local before = redis.call('HMGET', KEYS[2], 'name', 'revision')
if not before[1] then
  before = product
  redis.call('HSET', KEYS[2], 'name', before[1], 'revision', before[2])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  if ARGV[2] ~= '' then
    redis.call('HSET', KEYS[1], 'name', ARGV[2], 'revision', ARGV[1])
  end
  if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[1], 'price_cents', ARGV[3])
  end
end
return {before[1], before[2], redis.call('HGETALL', KEYS[1])}
