-- Give a user another password and role, in one step, if the password is the one that is known.
-- Returns 1 if it was, or is the new one already, as in a second run; else, or without a user, 0.
-- KEYS: user. ARGV: known hash, new hash, role.
local hash = redis.call('HGET', KEYS[1], 'password_hash')
if hash ~= ARGV[1] and hash ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'password_hash', ARGV[2], 'role', ARGV[3])
return 1
