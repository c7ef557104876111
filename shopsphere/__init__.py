"""What the three ShopSphere services share. It imports nothing from the services or the stores."""

__version__ = "0.1.0"
