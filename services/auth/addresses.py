"""What counts as an e-mail address."""

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


#: An e-mail address by RFC 5321; whether it exists is for the mail to find out.
Address = Annotated[str, Field(max_length=254), AfterValidator(_address)]
