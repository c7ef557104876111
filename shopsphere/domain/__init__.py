"""The shop without I/O: its records, its errors, and every rule, once.

A **rule** is a function of the storage's time in seconds and of records in one slot. It
changes the records and returns a value or an error; its changes are kept in either case. It raises
nothing, never waits and touches nothing else. It may be applied again after a lost response, so it
must recognise its own effect.
"""
