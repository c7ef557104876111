-- Add entries to the search index; those that are there already stay. The index is one sorted list,
-- cut into buckets, as Redis keeps small sorted sets packed: a twentieth of the room around each
-- entry. A bucket is named by a bound that none of its entries is below; the directory, a sorted
-- set, holds the bounds of all buckets there are. A bucket that is full is cut in two. While a
-- Cluster moves the slot key by key, a bucket that is on the other node is an error, of Redis or of
-- ours, and comes before a change that needs it.
-- KEYS: directory; the buckets are in its slot. ARGV: entries that fill a bucket, entries to add.
for i = 2, #ARGV do
  local low = redis.call('ZREVRANGEBYLEX', KEYS[1], '[' .. ARGV[i], '-', 'LIMIT', 0, 1)[1] or ''
  local bucket = KEYS[1] .. ':' .. low
  local size = redis.call('ZCARD', bucket)
  if size == 0 and redis.call('ZADD', KEYS[1], 0, low) == 0 then
    return redis.error_reply('TRYAGAIN Part of the search index is on another node.')
  end
  size = size + redis.call('ZADD', bucket, 0, ARGV[i])
  if size >= tonumber(ARGV[1]) then
    local half = math.floor(size / 2)
    local middle = redis.call('ZRANGE', bucket, half, half)[1]
    local upper = KEYS[1] .. ':' .. middle
    redis.call('ZUNIONSTORE', upper, 1, bucket)
    redis.call('ZREMRANGEBYRANK', upper, 0, half - 1)
    redis.call('ZADD', KEYS[1], 0, middle)
    redis.call('ZREMRANGEBYRANK', bucket, half, -1)
  end
end
