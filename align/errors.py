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
