"""What counts as an e-mail address."""

import unicodedata
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field


def _address(text: str) -> str:
    try:
        # A company's own mail may live in a domain that the world does not know.
        return validate_email(
            text.strip(), check_deliverability=False, globally_deliverable=False
        ).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


def _plain(text: str) -> str:
    """Full-width letters, ligatures and the like read as others do, and are another mailbox."""
    if unicodedata.normalize("NFKC", text) != text:
        raise ValueError("Write the address in ordinary letters: it reads as another one does.")
    return text


#: An e-mail address by RFC 5321; whether it exists is for the mail to find out.
KnownAddress = Annotated[str, Field(max_length=254), AfterValidator(_address)]
#: One that is new here. Of those that look alike only the plainest is taken; who came with
#: another before goes on with it.
Address = Annotated[KnownAddress, AfterValidator(_plain)]
