"""Errors that a user can act upon. Every room may raise them; the commands print them."""


class GateError(Exception):
    """Something went wrong that is not a bug of the gate.

    `str(error)` is one line that says what happened to which thing; `hint` says what to do next and may have several
    lines.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ArgumentError(GateError, ValueError):
    """An argument that makes no sense, told when the object is made."""


def reason_of(error: BaseException) -> str:
    """Return in one line what an error says; of one that only says that something was unexpected, what that was."""
    said = str(error) or type(error).__name__
    cause = error.__cause__
    return said if cause is None or type(error).__name__ != "KafkaError" else f"{said}: {reason_of(cause)}"


class UnknownRequestError(GateError):
    """No such request is there, or not within what was searched."""
