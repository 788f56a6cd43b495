"""The points of this service at which a test may kill it."""

from enum import StrEnum


class Point(StrEnum):
    """Where a crash could leave something half done."""

    BEGIN_BEFORE_RECORD = "begin.before-record"
    BEGIN_AFTER_RECORD = "begin.after-record"
    COMMIT_BEFORE_VERIFY = "commit.before-verify"
    COMMIT_BEFORE_MANIFEST = "commit.before-manifest"
    COMMIT_AFTER_MANIFEST = "commit.after-manifest"
    COMMIT_AFTER_RECORD = "commit.after-record"
    COLLECT_AFTER_MARK = "collect.after-mark"
    COLLECT_AFTER_MANIFEST = "collect.after-manifest"
    COLLECT_AFTER_PARTS = "collect.after-parts"
    COLLECT_AFTER_BORROWED = "collect.after-borrowed"
