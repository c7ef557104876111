"""The shop without I/O: what is kept, what can go wrong, and every rule, once."""
