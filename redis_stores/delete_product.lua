-- Mark a product as deleted. Returns its name and revision, or false if it was not there or was
-- deleted by another command; its figures and reservations stay.
-- KEYS: product. ARGV: id of this command.
local product = redis.call('HMGET', KEYS[1], 'name', 'revision', 'deleted')
if not product[1] or (product[3] and product[3] ~= ARGV[1]) then
  return false
end
redis.call('HSET', KEYS[1], 'deleted', ARGV[1])
return {product[1], product[2]}
