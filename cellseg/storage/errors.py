"""The one exception a user is meant to read."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what must hold, what came, and what to do."""
