"""Failures that a user can fix, and exit codes. A message says in one line what was found, what was expected, what to do."""

EXIT_DONE = 0
EXIT_USAGE = 2  # wrong command line (argparse's own code)
EXIT_BAD_INPUT = 3  # annotations, class list, checkpoint, weights, score file
EXIT_ENVIRONMENT = 4  # disk, memory, permission, missing program, device
EXIT_SOME_BAD = 5  # finished, but some inputs were bad and are listed
EXIT_INTERRUPTED = 130  # Ctrl-C
EXIT_TERMINATED = 143  # SIGTERM, or SIGHUP of a closed terminal


class UserError(Exception):
    """Something outside the program is wrong; scripts print the message without a traceback."""

    exit_code: int

    def __str__(self) -> str:
        # A loader's worker wraps the text in its own traceback; only what follows the type is meant for the user.
        return super().__str__().rsplit(f"{type(self).__name__}: ", 1)[-1].strip()


class BadInputError(UserError):
    """A file that was given does not hold what it must."""

    exit_code = EXIT_BAD_INPUT


class EnvironmentFaultError(UserError):
    """The machine lacks something: a program, a device, space."""

    exit_code = EXIT_ENVIRONMENT


class Terminated(KeyboardInterrupt):
    """The machine asks the program to end, as a user does with Ctrl-C."""


def one_line(error: BaseException, *, max_length: int = 200) -> str:
    """What an exception says, as one line of at most `max_length` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:max_length] or type(error).__name__


def exit_code(error: BaseException) -> int:
    """What a program ends with."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    return EXIT_ENVIRONMENT if isinstance(error, OSError | MemoryError) else 1
