"""Secrets and personal data never reach a log line."""

from shared.observability import redact, redact_text


def test_passwords_tokens_and_addresses_are_hidden_in_text() -> None:
    text = "postgresql://auth:s3cret@db/x Bearer abc.def-ghi mail ada@example.com"

    hidden = redact_text(text)

    for secret in ("s3cret", "abc.def-ghi", "ada@example.com"):
        assert secret not in hidden
    assert "postgresql://auth:" in hidden


def test_whatever_is_called_a_secret_is_hidden_at_any_depth() -> None:
    fact = {"user": {"password": "hunter2", "id": 7}, "tokens": ["a"], "rows": [{"email": "x"}]}

    assert redact(fact) == {
        "user": {"password": "[hidden]", "id": 7},
        "tokens": "[hidden]",
        "rows": [{"email": "[hidden]"}],
    }
