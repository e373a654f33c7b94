"""The errors that this package raises on purpose; every other exception is a fault of the program."""


class AdapterDropError(Exception):
    """Base of all errors below. The message says what was expected, what was found and what to do next."""


class BundleError(AdapterDropError):
    """The folder is not a bundle that this version can run: a file is missing, altered or malformed."""


class ProviderError(AdapterDropError):
    """An execution provider that was asked for by name is unknown, not installed or does not work here."""


class CancelledError(AdapterDropError):
    """The caller ended the call through its `Cancellation`."""


class InputError(AdapterDropError):
    """What the caller passed does not fit the bundle: feeds, texts, task names, a drop or an option."""
