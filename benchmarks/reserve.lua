-- Version 0.1.0's reservation, one script each: the baseline that today's steps are held against.
-- Hold units of a product for an order: the check and the taking are this one step, once per order.
-- Returns {'taken' or 'same', price in cents, name}, {'missing'}, {'refused', available},
-- {'released'} or {'conflict'}. A refusal is remembered, so that it is final for this order.
-- KEYS: product, reservation, live reservations.
-- ARGV: order pk, quantity, seconds to remember a refusal.
local product = redis.call('HMGET', KEYS[1], 'name', 'price_cents', 'available', 'deleted')
if not product[1] or product[4] then
  return {'missing'}
end
local before = redis.call('HMGET', KEYS[2], 'state', 'quantity', 'price_cents', 'name', 'available')
if before[1] == 'refused' then
  return {'refused', tonumber(before[5])}
elseif before[1] == 'released' then
  return {'released'}
elseif before[1] then
  if before[2] ~= ARGV[2] then
    return {'conflict'}
  end
  return {'same', before[3], before[4]}
end
local available = tonumber(product[3])
if available < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'state', 'refused', 'available', available)
  redis.call('EXPIRE', KEYS[2], ARGV[3])
  return {'refused', available}
end
redis.call('HINCRBY', KEYS[1], 'available', -ARGV[2])
redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[2])
redis.call('HSET', KEYS[2], 'state', 'held', 'quantity', ARGV[2],
           'price_cents', product[2], 'name', product[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
return {'taken', product[2], product[1]}
