-- Take entries out of the search index, and a bucket that is empty then; see add_entries.lua.
-- KEYS: directory. ARGV: entries to remove; it does not matter whether they are there.
for _, entry in ipairs(ARGV) do
  local low = redis.call('ZREVRANGEBYLEX', KEYS[1], '[' .. entry, '-', 'LIMIT', 0, 1)[1] or ''
  local bucket = KEYS[1] .. ':' .. low
  if redis.call('ZREM', bucket, entry) == 1 and redis.call('EXISTS', bucket) == 0 then
    redis.call('ZREM', KEYS[1], low)
  end
end
