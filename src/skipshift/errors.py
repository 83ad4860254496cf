"""Errors that a user can mend: a wrong file, a wrong argument."""


class SkipshiftError(Exception):
    """A file or folder of the user's is wrong: the message names it, the fault and the way out."""


class ArgumentError(SkipshiftError, ValueError):
    """An argument or setting is wrong: the message names it, the rule and the value given."""
