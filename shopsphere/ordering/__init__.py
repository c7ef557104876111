"""Ordering: how an order comes to be, is ended, and is put right when something broke."""
