"""Time as a test wants it: nothing waits for a day to pass."""

from tests.servers import RedisServer
from tests.small_shop import LET_PASS

MOVE_POSITIONS = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'zset' and string.find(key, ':list:', 1, true) then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -ARGV[1] * 1000000, member)
    end
  elseif kind == 'string' and string.find(key, ':position:', 1, true) then
    redis.call('INCRBY', key, -ARGV[1] * 1000000)
  end
end
"""


class MovedClock:
    """The clock of records in memory, and of a Redis too: there all times that are kept move.

    So what happened before seems longer ago, and after a move backwards it lies in the future.
    """

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def move(self, seconds: int) -> None:
        """Have so many seconds gone by; a negative number moves the clock back."""
        self._now += seconds
        for script in (LET_PASS, MOVE_POSITIONS):
            self._redis.eval(script, 0, str(seconds))
