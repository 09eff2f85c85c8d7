"""The one error that is the user's to mend, and what is one everywhere."""


class InputError(ValueError):
    """What was asked for cannot be done; the message says what was given, what is allowed and what to do next."""


def refuse_empty(name, value):
    """Raises InputError for text without a character: a name, a path or a choice it is never."""
    if isinstance(value, str) and not value.strip():
        raise InputError(
            f"{name}={value!r} is empty, as it is where a shell variable is not set: give a value, or leave the option out."
        )
