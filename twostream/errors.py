"""Errors that a user can fix, and exit codes.

A message says in one line what was found, what was expected, and what to do.
"""

EXIT_DONE = 0
EXIT_USAGE = 2  # wrong command line (argparse's own code)
EXIT_BAD_INPUT = 3  # annotations, class list, checkpoint, weights, score file
EXIT_ENVIRONMENT = 4  # disk, memory, permission, missing program, device
EXIT_SOME_BAD = 5  # finished, but some inputs were bad and are listed
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_PIPE = 141  # what reads the output has ended, as `| head` does (SIGPIPE)
EXIT_TERMINATED = 143  # SIGTERM, or SIGHUP from a closed terminal


class UserError(Exception):
    """Something outside the program is wrong; programs print the message without a traceback."""

    exit_code: int
    """what a program exits with"""

    def __str__(self) -> str:
        # A loader's worker wraps the message in its traceback; only the part behind the type's name is for the user.
        return super().__str__().rsplit(f"{type(self).__name__}: ", 1)[-1].strip()


class BadInputError(UserError):
    """A file does not contain what it must."""

    exit_code = EXIT_BAD_INPUT


class EnvironmentFaultError(UserError):
    """The machine lacks something: a program, a device, space."""

    exit_code = EXIT_ENVIRONMENT


class Terminated(KeyboardInterrupt):
    """The system ends the program (SIGTERM, SIGHUP), as a user does with Ctrl-C."""


def one_line(error: BaseException, *, max_length: int = 200) -> str:
    """The message of an exception, as one line of at most `max_length` characters; its type if it has no message."""
    return " ".join(str(error).split())[:max_length] or type(error).__name__


def exit_code(error: BaseException) -> int:
    """What a program exits with after this exception."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    return EXIT_ENVIRONMENT if isinstance(error, OSError | MemoryError) else 1
