"""The points of this service at which a test may kill it."""

from enum import StrEnum


class Point(StrEnum):
    """Where a crash could double or lose an evaluation."""

    SUITE_BEFORE_RECORD = "suite.before-record"
    SUITE_AFTER_RECORD = "suite.after-record"
    ATTEMPT_AFTER_RECORD = "attempt.after-record"
    TASK_AFTER_CREATE = "task.after-create"
    RESULT_BEFORE_RECORD = "result.before-record"
    RESULT_AFTER_RECORD = "result.after-record"
