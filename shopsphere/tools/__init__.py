"""The code of the top-level commands. No service imports it."""
