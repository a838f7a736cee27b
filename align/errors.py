"""What `align` says when it stops. The command line prints the message and exits with the code."""


class AlignError(Exception):
    """The machine or a library failed while a stage ran; the last checkpoint is still good."""

    exit_code = 1


class UserError(AlignError):
    """Something that the user must fix before the command can work."""

    exit_code = 2


class MissingStage(UserError):
    """An earlier stage has to finish first."""

    exit_code = 3


class Terminated(BaseException):
    """Someone asked the process to end (SIGTERM), as batch systems do before they take a machine back."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or torch on a GPU could not get memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
