"""The error for the user's input, and checks that every command needs."""


class InputError(ValueError):
    """The request cannot be fulfilled; the message says what was given, what is allowed and what to do next."""


def refuse_empty(name, value):
    """Raises InputError for empty text, which is never a valid name, path or choice."""
    if isinstance(value, str) and not value.strip():
        raise InputError(
            f"{name}={value!r} is empty, as it is where a shell variable is not set: give a value, or leave the "
            "option out."
        )
