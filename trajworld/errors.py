"""The errors that a user can fix; the command line prints them as one line."""


class TrajWorldError(Exception):
    """Something outside the program is wrong: the message says what, where and how to fix it."""

    exit_code = 1


class UsageError(TrajWorldError):
    """The call itself is wrong: an unknown name, options that contradict each other, a value out of range."""

    exit_code = 2


DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What code raises that uses the values of a file, when these are wrong."""


def one_line(error: BaseException, most: int = 150) -> str:
    """An exception's type and text, on one line of at most ``most`` characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]


def first_line(error: Exception) -> str:
    """The first line of an exception's text; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
