"""The shop without I/O: what is kept, what can go wrong, and every rule, once.

A **rule** is a function of the storage's time in seconds and of records of one slot. It changes the
records and returns a value, or an error; what it changed is kept in either case. It raises nothing,
waits for nothing and touches nothing outside. It may be applied again after a lost response, so it
recognises its own effect.
"""
