"""The RPCs of the training service: validate, convert, delegate."""
