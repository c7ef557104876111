"""Clients of one Redis, of the master that Sentinels name, and of a Cluster, with our errors."""
