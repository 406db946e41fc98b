"""The one family of errors: what went wrong, where, and what to do."""


class LabError(ValueError):
    """Raised for every mistake a person can repair. The message says what, where and what to do."""
