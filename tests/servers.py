"""Where the tests' servers come from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Servers:
    """Real servers, and URLs with all rights on them."""

    postgres_url: str
    rabbitmq_url: str
    redis_url: str


@contextmanager
def start_servers() -> Iterator[Servers]:
    """Those that TEST_POSTGRES_URL, TEST_RABBITMQ_URL and TEST_REDIS_URL name."""
    yield Servers(
        os.environ["TEST_POSTGRES_URL"],
        os.environ["TEST_RABBITMQ_URL"],
        os.environ["TEST_REDIS_URL"],
    )
