"""The exception whose message is written for the user."""


class InputError(ValueError):
    """Signals input that cellseg cannot use; the message names the fault, its place, and the remedy."""
