"""The environment of the auth service."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, SecretStr

from shared.settings import Settings

#: Who may look around in a development system (infra/environment.py), and never in production.
DEVELOPMENT_STAFF = "staff@example.com"


class AuthSettings(Settings):
    """What auth needs beside what every service does."""

    mail_dir: Path = Field(
        Path(".run/mailbox"), description="Where mails go as files while no SMTP server is set."
    )
    mail_from: str = Field(
        "Perennial <no-reply@perennial.localhost>", description="The sender of all mails."
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://user:password@host:587` (STARTTLS where offered) or `smtps://…:465`.",
    )
    staff_email: str | None = Field(None, description="The first staff user, made at start.")
    staff_password: SecretStr | None = Field(None, description="Their password.")
    default_country: str = Field("DE", description="Of accounts that name none (ISO 3166).")
    default_time_zone: str = Field("UTC", description="Of accounts that name none (IANA).")
    mails_from_one_network: int = Field(
        60,
        ge=0,
        description="Mails that one network address may have us send to others, an hour; 0: any.",
    )
    portal_url: str | None = Field(
        None,
        description="Where customers' own pages are: the link of a customer session leads there, "
        "with its token behind `#token=`.",
    )
    password_workers: int = Field(
        2, ge=1, le=64, description="Passwords hashed side by side; 19 MiB and one core each."
    )

    def unfit_for_production(self) -> Iterator[str]:
        yield from super().unfit_for_production()
        if self.staff_email == DEVELOPMENT_STAFF:
            yield "PERENNIAL_STAFF_EMAIL is the one of development"
        yield from self._weak("staff_password")
