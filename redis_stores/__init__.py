"""Users, products and orders on Redis, one file each; each Lua script is one atomic step."""
