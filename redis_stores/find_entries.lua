-- Return the first entries of a range of the search index, in order; see add_entries.lua.
-- KEYS: directory. ARGV: from, to (as for ZRANGEBYLEX), most entries to return.
local found = {}
local low = redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[1], '-', 'LIMIT', 0, 1)[1] or ''
repeat
  local bucket = KEYS[1] .. ':' .. low
  if redis.call('EXISTS', bucket) == 0 and redis.call('ZSCORE', KEYS[1], low) then
    return redis.error_reply('TRYAGAIN Part of the search index is on another node.')
  end
  local left = ARGV[3] - #found
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', bucket, ARGV[1], ARGV[2], 'LIMIT', 0, left)) do
    table.insert(found, entry)
  end
  low = redis.call('ZRANGEBYLEX', KEYS[1], '(' .. low, ARGV[2], 'LIMIT', 0, 1)[1]
until not low or #found == tonumber(ARGV[3])
return found
