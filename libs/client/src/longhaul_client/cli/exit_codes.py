"""Exit codes of the `longhaul` command; docs/cli.md lists them for programs."""

from enum import IntEnum

from longhaul_core.errors import ErrorCode


class ExitCode(IntEnum):
    """Stable over releases."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    INVALID = 6
    PRECONDITION = 7
    DENIED = 8
    INTERRUPTED = 130


_BY_CODE = {
    ErrorCode.NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: ExitCode.CONFLICT,
    ErrorCode.ABORTED: ExitCode.CONFLICT,
    ErrorCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: ExitCode.UNAVAILABLE,
    ErrorCode.INVALID_ARGUMENT: ExitCode.INVALID,
    ErrorCode.FAILED_PRECONDITION: ExitCode.PRECONDITION,
    ErrorCode.RESOURCE_EXHAUSTED: ExitCode.PRECONDITION,
    ErrorCode.PERMISSION_DENIED: ExitCode.DENIED,
    ErrorCode.UNAUTHENTICATED: ExitCode.DENIED,
}


def exit_code_of(code: ErrorCode) -> ExitCode:
    """Return the exit code of an error."""
    return _BY_CODE.get(code, ExitCode.FAILED)
