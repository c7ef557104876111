"""How fast ShopSphere is, beside bare FastAPI apps that do the same: `python -m benchmarks`."""
