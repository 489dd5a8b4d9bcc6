"""How the operator's secret keys are written: a prefix to know them by, and a checksum."""

import secrets
import string
import zlib

#: Begins as every key does (`shared.security.API_KEY_PREFIX`), so that services trade it alike.
SECRET_KEY_PREFIX = "prn_sk_"  # noqa: S105 -- what keys begin with
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
#: 62 letters to the 43rd are 256 bits.
RANDOM_LETTERS = 43
CHECK_LETTERS = 6
LENGTH = len(SECRET_KEY_PREFIX) + RANDOM_LETTERS + CHECK_LETTERS


def new_secret_key() -> str:
    """A key that nobody can guess. Letters and digits alone, so that a double click takes it whole.

    The checksum at its end tells a typo, or half a key, from one that is unknown; scanners of
    leaked secrets use it to be sure of what they found.
    """
    body = SECRET_KEY_PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LETTERS))
    return body + _checksum(body)


def is_secret_key(text: str) -> bool:
    """Whether it means to be one of the operator's keys."""
    return text.startswith(SECRET_KEY_PREFIX)


def is_well_formed(text: str) -> bool:
    """Whether it can be one: complete, and without a typo. Nothing is looked up."""
    return (
        len(text) == LENGTH
        and is_secret_key(text)
        and text.endswith(_checksum(text[:-CHECK_LETTERS]))
    )


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    letters = ""
    for _ in range(CHECK_LETTERS):
        number, letter = divmod(number, len(ALPHABET))
        letters = ALPHABET[letter] + letters
    return letters
