"""Invoicing's environment variables."""

from collections.abc import Iterator

from pydantic import Field, SecretStr

from shared.settings import Settings


class InvoicingSettings(Settings):
    """Beside those that every service has; all are named `PERENNIAL_<NAME>`."""

    object_store_url: str = Field(
        ".run/objects", description="Documents and attachments: a folder, or s3://bucket/prefix."
    )
    s3_endpoint: str | None = Field(None, description="An S3 server that is not Amazon's.")
    s3_public_endpoint: str | None = Field(
        None,
        description="The same server by the name that clients reach it by; links carry it. "
        "Only where it is another one.",
    )
    s3_region: str = Field("us-east-1", description="The bucket's region.")
    s3_access_key_id: str | None = Field(None, description="Who reads and writes the bucket.")
    s3_secret_access_key: SecretStr | None = Field(None, description="Their secret.")
    link_secret: SecretStr | None = Field(
        None,
        description="Signs links to local objects; the same for all processes. "
        "Made from the database's URL when it is not given.",
    )
    render_processes: int = Field(
        1, ge=1, le=16, description="How many documents are rendered at once, a process each."
    )
    font_path: str | None = Field(
        None,
        description="A folder of fonts for documents, beside those that come with Perennial.",
    )
    ecb_rates_url: str | None = Field(
        None,
        description="Where a worker fetches the ECB's exchange rates every six hours; "
        "nothing is fetched when it is not set.",
    )

    def unfit_for_production(self) -> Iterator[str]:
        yield from super().unfit_for_production()
        yield from self._weak("link_secret", "s3_access_key_id", "s3_secret_access_key")
