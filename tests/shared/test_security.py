"""Access tokens: believed for as long as the keys that signed them and their own time allow."""

import pytest
from joserfc.jwk import ECKey

from shared import security
from shared.errors import Unauthenticated
from shared.ids import new_id
from shared.security import Verifier
from tests.tokens import TokenIssuer


def verifier_of(issuer: TokenIssuer) -> Verifier:
    return Verifier(issuer.fetch_keys, issuer="perennial", audience="perennial")


async def test_a_token_is_refused_once_its_key_is_withdrawn_although_it_was_believed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = TokenIssuer()
    verifier = verifier_of(issuer)
    account_id = new_id()
    token = issuer.token(account_id=str(account_id))
    for _ in range(3):
        assert (await verifier.verify(token)).account_id == account_id

    issuer.key = ECKey.generate_key("P-256", {"kid": "next", "use": "sig", "alg": "ES256"})
    monkeypatch.setattr(security, "KEYS_TTL_SECONDS", 0)  # the keys are asked for again

    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


async def test_one_letter_more_or_less_is_another_token() -> None:
    issuer = TokenIssuer()
    verifier = verifier_of(issuer)
    token = issuer.token()
    assert await verifier.verify(token)

    for forged in (token[:-4], token + "A", token[:-8] + token[-8:].swapcase()):
        with pytest.raises(Unauthenticated):
            await verifier.verify(forged)
    assert await verifier.verify(token)


async def test_a_caller_is_made_anew_from_a_token_that_was_seen_before() -> None:
    issuer = TokenIssuer()
    verifier = verifier_of(issuer)
    token = issuer.token(scope="a b")

    first, second = await verifier.verify(token), await verifier.verify(token)

    assert first == second
    assert first.scopes == frozenset({"a", "b"})
