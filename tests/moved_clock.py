"""Time as a test wants it: nothing waits for a day to pass."""

from tests.servers import RedisServer

MOVE_ALL_TIMES = """
local seconds = tonumber(ARGV[1])
local micros = string.format('%.0f', -seconds * 1000000)
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, left = redis.call('TYPE', key).ok, redis.call('PTTL', key)
  local is_timed = string.find(key, ':notes:', 1, true) or string.find(key, ':list:', 1, true)
  if kind == 'zset' and is_timed then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, micros, member)
    end
  elseif kind == 'string' and string.find(key, ':position:', 1, true) then
    redis.call('INCRBY', key, micros)
  elseif kind == 'hash' and redis.call('HEXISTS', key, 'lease_until') == 1 then
    redis.call('HINCRBYFLOAT', key, 'lease_until', -seconds)
    redis.call('HSET', key, 'version', redis.call('HGET', key, 'version') .. '+')
  end
  if left >= 0 and left <= seconds * 1000 then
    redis.call('DEL', key)
  elseif left >= 0 then
    redis.call('PEXPIRE', key, left - seconds * 1000)
  end
end
"""
"""Brings all times nearer that a Redis keeps: the clock of a real one cannot be moved."""


class MovedClock:
    """The clock of records in memory, and of a Redis too: there all times that are kept move.

    So what happened before seems longer ago, and after a move backwards it lies in the future.
    """

    def __init__(self, server: RedisServer | None) -> None:
        self._server = server
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def move(self, seconds: float) -> None:
        """Have so many seconds gone by; a negative number moves the clock back."""
        self._now += seconds
        if self._server:
            self._server.client.eval(MOVE_ALL_TIMES, 0, str(seconds))
