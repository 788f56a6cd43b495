"""The points of a save at which a test may kill the worker."""

from enum import StrEnum


class SavePoint(StrEnum):
    """Where a crash could leave something half done."""

    AFTER_STAGING = "save.after-staging"
    AFTER_FIRST_PART = "upload.after-first-part"
    AFTER_PARTS = "upload.after-parts"
    BEFORE_COMMIT = "save.before-commit"
    AFTER_COMMIT = "save.after-commit"
