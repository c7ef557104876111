"""Ordering: how an order comes to be, and how the product service is asked."""
