"""The one error that is the user's to mend."""


class InputError(ValueError):
    """What was asked for cannot be done; the message says what was given, what is allowed and what to do next."""
