"""The exception whose message is written for the user, and a number in a sentence."""


class InputError(ValueError):
    """Signals input that cellseg cannot use; the message names the fault, its place, and the remedy."""


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 pair, 2 pairs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
