"""The code shared by the three services. It imports neither the services nor the storages."""

__version__ = "0.1.0"
