"""Ordering: placing, cancelling, shipping and settling orders."""
