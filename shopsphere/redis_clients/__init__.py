"""Clients of a single Redis, of a master behind Sentinels and of a Cluster, with our errors."""
