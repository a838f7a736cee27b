"""What `align` says when it stops. The command line prints the message and exits with the code."""

import errno

# torch's words, the C++ library's, those of the loader of shared objects (twice), the system's.
_NO_MEMORY = (
    "can't allocate memory",
    "std::bad_alloc",
    "failed to map segment from shared object",
    "cannot allocate memory in static TLS block",
    "Cannot allocate memory",
)


class AlignError(Exception):
    """The machine or a library failed while a stage ran; the last checkpoint is still good."""

    exit_code = 1


class ProcessDied(AlignError):
    """A process that was started ended without a message of its own."""


class UserError(AlignError):
    """Something that the user must fix before the command can work."""

    exit_code = 2


class RecipeError(UserError):
    """What a recipe says cannot work here; the command line puts the line of `key` before the message."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key  # with dots, as lora.targets


class MissingStage(UserError):
    """An earlier stage has to finish first."""

    exit_code = 3


class Terminated(BaseException):
    """Someone asked the process to end (SIGTERM), as batch systems do before they take a machine back."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or on a GPU got no memory, or a library no room to be loaded."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    number = error.errno if isinstance(error, OSError) else None
    said = str(error)
    return named or number == errno.ENOMEM or any(words in said for words in _NO_MEMORY)
