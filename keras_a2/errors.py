"""Errors that a person can act on."""


class UserError(Exception):
    """What is wrong, where, and what to do, in one line. The scripts print it and exit with code 2."""
