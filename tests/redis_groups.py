"""Redis in groups for the tests: a Cluster of three masters, a master with its Sentinels."""

from pathlib import Path

from tests.servers import RedisServer, free_port, wait_until

SLOTS = 16384
BUS_OFFSET = 10_000
"""Where the nodes of a Redis before 7 talk to each other, above their port."""


class RedisCluster:
    """Three masters that share the slots; each keeps its files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [self._node(folder / f"node-{number}") for number in range(3)]
        share = SLOTS // len(self.nodes) + 1
        for number, node in enumerate(self.nodes):
            slots = range(number * share, min((number + 1) * share, SLOTS))
            node.client.execute_command("CLUSTER ADDSLOTS", *slots)
            for other in self.nodes:
                node.client.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        wait_until(self.is_whole, 30, "the cluster is whole")
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @staticmethod
    def _node(folder: Path) -> RedisServer:
        folder.mkdir()
        port = free_port()
        while port + BUS_OFFSET > 65535:
            port = free_port()
        return RedisServer(
            folder, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
            "--appendonly", "yes", port=port,
        )  # fmt: skip

    def is_whole(self) -> bool:
        """Tell whether every node sees all the others and all slots."""
        return all(
            facts["cluster_state"] == "ok" and facts["cluster_known_nodes"] == "3"
            for facts in (node.client.cluster("info") for node in self.nodes)
        )

    def stop(self) -> None:
        for node in self.nodes:
            node.client.close()
            node.stop()
