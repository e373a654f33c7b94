"""Exceptions that this package raises on purpose; any other exception is a bug."""


class AdapterDropError(Exception):
    """Base class of all errors below. The message states what was expected, what was found and what to do next."""


class BundleError(AdapterDropError):
    """The folder is not a bundle that this version can run: a file is missing, altered or malformed."""


class ProviderError(AdapterDropError):
    """An execution provider that was requested by name is unknown, not installed or does not work on this machine."""


class CancelledError(AdapterDropError):
    """The call was cancelled through its `Cancellation`."""


class InputError(AdapterDropError):
    """An argument does not fit the bundle: feeds, texts, task names, a drop or an option."""
