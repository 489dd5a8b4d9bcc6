"""In production nothing starts that is set up as on a developer's machine; each fault is named."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.servers

#: Passwords of nobody's example; nothing listens where they lead.
SECRET = "c3nd0l-Xq8-wharf"
GOOD = {
    "PERENNIAL_ENVIRONMENT": "production",
    "PERENNIAL_DATABASE_URL": f"postgresql://{{service}}:{SECRET}@127.0.0.1:1/none",
    "PERENNIAL_BROKER_URL": f"amqp://{{service}}:{SECRET}@127.0.0.1:1/",
    "PERENNIAL_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
    "PERENNIAL_PROVIDERS": "stripe",
    "PERENNIAL_STRIPE_API_KEY": f"rk_live_{SECRET}",
    "PERENNIAL_STRIPE_WEBHOOK_SECRET": f"whsec_{SECRET}",
}


def start(service: str, verb: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "PERENNIAL" not in name}
    told = {name: value.format(service=service) for name, value in {**GOOD, **environment}.items()}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *verb.split()],
        env={**clean, **told},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that a refused start says."""
    assert ended.returncode == 2, ended.stderr
    (said,) = ended.stderr.strip().splitlines()
    assert said.startswith("Not fit for production: ")
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    ("service", "verb"),
    [
        ("auth", "api"),
        ("auth", "worker"),
        ("auth", "migrate"),
        ("auth", "rotate-keys"),
        ("subscriptions", "api"),
        ("invoicing", "worker"),
        ("payments", "migrate"),
    ],
)
def test_the_passwords_of_the_examples_are_refused_by_every_process(
    service: str, verb: str
) -> None:
    said = refusal(
        start(
            service,
            verb,
            PERENNIAL_DATABASE_URL="postgresql://{service}:{service}@127.0.0.1:1/none",
            PERENNIAL_BROKER_URL="amqp://guest:guest@127.0.0.1:1/",
            PERENNIAL_BROKER_ADMIN_URL="amqp://deployer:deployer@127.0.0.1:1/",
            PERENNIAL_REDIS_URL="redis://:redis@127.0.0.1:1/0",
        )
    )

    for name in ("DATABASE_URL", "BROKER_URL", "BROKER_ADMIN_URL", "REDIS_URL"):
        assert f"PERENNIAL_{name} " in said


@pytest.mark.parametrize(
    ("url", "is_fit"),
    [
        ("postgresql://auth@127.0.0.1:1/none", False),
        ("postgresql://auth:short@127.0.0.1:1/none", False),
        ("postgresql://auth:Perennial@127.0.0.1:1/none", False),
        (f"postgresql://auth:{SECRET}@127.0.0.1:1/none", True),
        ("postgresql://auth@127.0.0.1:1/none?sslcert=/run/auth.crt", True),
    ],
)
def test_a_database_wants_a_password_or_a_certificate(url: str, is_fit: bool) -> None:
    ended = start("auth", "migrate", PERENNIAL_DATABASE_URL=url)

    assert (ended.returncode != 2) == is_fit, ended.stderr


@pytest.mark.parametrize(
    ("service", "environment", "named"),
    [
        ("auth", {"STAFF_PASSWORD": "perennial-development"}, "PERENNIAL_STAFF_PASSWORD"),
        ("auth", {"STAFF_EMAIL": "staff@example.com"}, "PERENNIAL_STAFF_EMAIL"),
        ("payments", {"PROVIDERS": "stripe, sandbox"}, "PERENNIAL_PROVIDERS"),
        ("payments", {"PROVIDERS": "sandbox"}, "PERENNIAL_PROVIDERS"),
        ("payments", {"STRIPE_WEBHOOK_SECRET": "whsec_test"}, "PERENNIAL_STRIPE_WEBHOOK_SECRET"),
        ("payments", {"STRIPE_API_KEY": "secret"}, "PERENNIAL_STRIPE_API_KEY"),
        ("invoicing", {"LINK_SECRET": "secret"}, "PERENNIAL_LINK_SECRET"),
        ("invoicing", {"S3_SECRET_ACCESS_KEY": "minioadmin"}, "PERENNIAL_S3_SECRET_ACCESS_KEY"),
    ],
)
def test_what_is_of_development_is_named(
    service: str, environment: dict[str, str], named: str
) -> None:
    told = {f"PERENNIAL_{name}": value for name, value in environment.items()}

    assert f"{named} " in refusal(start(service, "api", **told))


def test_every_fault_is_named_at_once() -> None:
    said = refusal(
        start(
            "payments",
            "worker",
            PERENNIAL_DATABASE_URL="postgresql://payments:payments@127.0.0.1:1/none",
            PERENNIAL_PROVIDERS="sandbox",
        )
    )

    assert "PERENNIAL_DATABASE_URL " in said
    assert "PERENNIAL_PROVIDERS " in said


def test_the_same_settings_are_good_in_development() -> None:
    ended = start(
        "auth",
        "migrate",
        PERENNIAL_ENVIRONMENT="development",
        PERENNIAL_DATABASE_URL="postgresql://auth:auth@127.0.0.1:1/none",
        PERENNIAL_STAFF_PASSWORD="perennial-development",
    )

    assert ended.returncode == 1  # Postgres is out of reach, which it got to ask
    assert "Postgres" in ended.stderr


@pytest.mark.parametrize("service", ["auth", "subscriptions", "invoicing", "payments"])
def test_a_fit_process_starts_and_gets_as_far_as_its_servers(service: str) -> None:
    ended = start(service, "migrate")

    assert ended.returncode == 1
    assert "Postgres at 127.0.0.1:1 is out of reach" in ended.stderr


def test_the_sandbox_does_not_start_in_production() -> None:
    ended = start("payments.sandbox", "")

    assert refusal(ended)


@pytest.mark.parametrize(
    ("environment", "allowed"),
    [
        ({}, True),
        ({"PERENNIAL_TEST_CLOCKS": ""}, True),
        ({"PERENNIAL_TEST_CLOCKS": "0"}, False),
        ({"PERENNIAL_ENVIRONMENT": "production"}, False),
        ({"PERENNIAL_ENVIRONMENT": "production", "PERENNIAL_TEST_CLOCKS": ""}, False),
        ({"PERENNIAL_ENVIRONMENT": "production", "PERENNIAL_TEST_CLOCKS": "1"}, True),
    ],
)
def test_production_has_no_test_clocks_unless_a_setting_asks_for_them(
    environment: dict[str, str],
    allowed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from services.subscriptions.settings import SubscriptionsSettings  # noqa: PLC0415

    for name in ("PERENNIAL_ENVIRONMENT", "PERENNIAL_TEST_CLOCKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**GOOD, "PERENNIAL_ENVIRONMENT": "development", **environment}.items():
        monkeypatch.setenv(name, value.format(service="subscriptions"))

    assert SubscriptionsSettings().test_clocks is allowed
