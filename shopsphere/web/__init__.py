"""The HTTP code shared by all services."""
