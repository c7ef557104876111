"""Time as a test wants it: nothing waits for a day to pass."""

from tests.servers import RedisServer


class MovedClock:
    """The clock of a memory store, and of a Redis too: there the ends of the keys come nearer."""

    def __init__(self, server: RedisServer) -> None:
        self._redis = server.client
        self._now = 1_000_000.0

    def __call__(self) -> float:
        return self._now

    def move(self, seconds: int) -> None:
        """Have so many seconds gone by."""
        self._now += seconds
        for key in self._redis.scan_iter():
            left = self._redis.pttl(key)
            if left >= 0:
                self._redis.pexpire(key, left - seconds * 1000)
