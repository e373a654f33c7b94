"""Errors of the tokenizers library, whose panics are no subclasses of Exception."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tokenizers import Tokenizer

from runtime.errors import AdapterDropError

# Texts of the check at load: empty, words, a pair, other scripts
_PROBES: Final = ("", "A word, 2 words.", ("one", "two"), "é 日本 🎬")


@contextmanager
def tokenizer_errors(kind: type[AdapterDropError], what: str, remedy: str) -> Iterator[None]:
    """Raise every failure of the tokenizers library as `kind`, including a panic of its Rust code.

    Args:
        kind: class of the error.
        what: what failed, the start of the message.
        remedy: what to do, the end of the message.
    """
    try:
        yield
    except AdapterDropError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise kind(f"{what}: {str(error) or type(error).__name__}; {remedy}") from error


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of Rust code; its class cannot be imported."""
    return type(error).__name__ == "PanicException"


def probe(tokenizer: Tokenizer) -> None:
    """Encode and decode a few texts.

    A tokenizer that panics does so for most texts. Its ordinary errors may concern a single text (a word that is not in a
    vocabulary without an unknown token), so they are raised only for the empty text.
    """
    for text in _PROBES:
        try:
            (encoding,) = tokenizer.encode_batch([text])
            tokenizer.decode(encoding.ids[:8], skip_special_tokens=False)
        except Exception:
            if not text:
                raise
