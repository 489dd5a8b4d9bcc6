"""The rules of auth alone: no server."""

import time
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.domain.accounts import Account, AccountIsClosed, Membership, RoleTooWeak
from services.auth.domain.api_keys import ApiKey, KeyEnd, Maker
from services.auth.domain.mfa import SecondFactorWrong, Totp, TotpCodeRefused, new_backup_code
from services.auth.domain.roles import NO_ACCOUNT, Role, StaffRole
from services.auth.domain.sessions import (
    IDLE_LIFE,
    SESSION_LIFE,
    MailedToken,
    Purpose,
    RefreshTokenRefused,
    Session,
    TokenRefused,
    new_secret,
)
from services.auth.domain.users import MOVES, IllegalUserTransition, User, UserStatus
from services.auth.passwords import MINIMUM_LENGTH, Passwords, check_strength
from services.auth.tokens import new_key, next_key
from shared.clock import utc_now
from shared.errors import DomainError, Invalid
from shared.ids import new_id
from shared.security import API_KEY_PREFIX, ApiKeyRefused

NOW = utc_now()


def a_user(status: UserStatus = UserStatus.ACTIVE) -> User:
    user, _ = User.register(home_account_id=NO_ACCOUNT, password_hash="h", at=NOW)
    user.status = status
    return user


def test_a_user_moves_as_the_table_says_and_no_other_way() -> None:
    verbs = {
        UserStatus.ACTIVE: (User.verify, User.reactivate),
        UserStatus.SUSPENDED: (User.suspend,),
        UserStatus.ERASED: (User.erase,),
    }
    for before in UserStatus:
        for after, ways in verbs.items():
            worked = 0
            for way in ways:
                user = a_user(before)
                try:
                    way(user, at=NOW)
                except IllegalUserTransition:
                    assert user.version == 1
                else:
                    worked += 1
                    assert (user.status, user.version) == (after, 2)
            assert bool(worked) == (after in MOVES[before]), (before, after)


def test_erasing_forgets_the_password_and_the_staff_role() -> None:
    user = a_user()
    user.erase(at=NOW)
    assert (user.password_hash, user.staff_role) == (None, None)


def test_the_events_of_an_account_are_numbered_without_a_gap() -> None:
    account, registered = Account.register(
        name="A", country="DE", time_zone="Europe/Berlin", at=NOW
    )
    same = account.update({"country": "DE"}, at=NOW)
    updated = account.update({"time_zone": "UTC"}, at=NOW)
    closed = account.close(at=NOW)

    assert same is None
    assert updated is not None
    assert [registered.sequence, updated.sequence, closed.sequence] == [1, 2, 3]
    assert account.name is None
    with pytest.raises(AccountIsClosed):
        account.update({"country": "FR"}, at=NOW)


@pytest.mark.parametrize("by", list(Role))
@pytest.mark.parametrize("before", list(Role))
@pytest.mark.parametrize("after", list(Role))
def test_owners_are_made_and_unmade_by_owners_alone(by: Role, before: Role, after: Role) -> None:
    member = Membership(
        id=new_id(), account_id=new_id(), user_id=new_id(), role=before, created_at=NOW
    )
    allowed = by is Role.OWNER or (by is Role.ADMIN and Role.OWNER not in (before, after))
    try:
        member.change_role(after, by=by)
    except RoleTooWeak:
        assert not allowed
    else:
        assert allowed
        assert member.role is after


def a_session() -> Session:
    return Session.open(user_id=new_id(), account_id=new_id(), ip=None, user_agent=None, at=NOW)


def test_a_refresh_token_works_once_and_not_for_ever() -> None:
    session = a_session()
    token = session.issue(new_secret(), at=NOW)
    token.use(at=NOW)
    with pytest.raises(RefreshTokenRefused):
        token.use(at=NOW)
    idle = session.issue(new_secret(), at=NOW)
    with pytest.raises(RefreshTokenRefused):
        idle.use(at=NOW + IDLE_LIFE)


def test_a_session_ends_however_busy_it_is() -> None:
    session = a_session()
    late = NOW + SESSION_LIFE - timedelta(days=1)
    assert session.issue(new_secret(), at=late).expires_at == NOW + SESSION_LIFE
    assert not session.is_alive(at=NOW + SESSION_LIFE)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_mailed_token_works_once_and_for_a_while(purpose: Purpose) -> None:
    def a_token() -> MailedToken:
        return MailedToken.make(
            "secret", user_id=new_id(), purpose=purpose, address_key="a@example.com", at=NOW
        )

    token = a_token()
    token.use(at=NOW)
    with pytest.raises(TokenRefused):
        token.use(at=NOW)
    old = a_token()
    with pytest.raises(TokenRefused):
        old.use(at=old.expires_at)
    with pytest.raises(TokenRefused):
        old.use(at=NOW, for_address="b@example.com")
    old.use(at=NOW, for_address="a@example.com")


def test_the_codes_are_those_of_rfc_6238() -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert pyotp.TOTP(secret, digits=8).at(1111111109) == "07081804"


def test_a_code_is_accepted_once_within_a_step_of_its_time() -> None:
    totp = Totp.enroll(user_id=new_id(), at=NOW)
    codes = pyotp.TOTP(totp.secret)
    now = int(NOW.timestamp())

    with pytest.raises(TotpCodeRefused):
        totp.confirm(codes.at(now - 120), at=NOW)
    backup = totp.confirm(codes.at(now - 30), at=NOW)
    totp.check(codes.at(now), at=NOW)
    for spent in (codes.at(now - 30), codes.at(now), codes.at(now + 90)):
        with pytest.raises(SecondFactorWrong):
            totp.check(spent, at=NOW)
    for code in backup:
        totp.check(code.upper(), at=NOW)
        with pytest.raises(SecondFactorWrong):
            totp.check(code, at=NOW)
    assert totp.backup_hashes == []


def test_backup_codes_are_long_and_differ() -> None:
    codes = {new_backup_code() for _ in range(100)}
    assert len(codes) == 100
    assert {len(code.replace("-", "")) for code in codes} == {24}


def test_a_key_that_ended_or_was_revoked_is_refused() -> None:
    key, secret = ApiKey.create(
        account_id=new_id(),
        name="k",
        role=Role.MEMBER,
        scopes=[],
        created_by=new_id(),
        expires_at=NOW + timedelta(days=1),
        at=NOW,
    )
    key.require_alive(at=NOW)
    assert secret.startswith(API_KEY_PREFIX)
    assert secret.startswith(key.prefix)
    assert secret.encode() not in key.key_hash
    with pytest.raises(ApiKeyRefused):
        key.require_alive(at=NOW + timedelta(days=1))
    key.revoke(because=KeyEnd.MAKER_LEFT, at=NOW)
    key.revoke(because=KeyEnd.REVOKED, at=NOW)
    assert key.revoked_because is KeyEnd.MAKER_LEFT
    with pytest.raises(ApiKeyRefused):
        key.require_alive(at=NOW)


@pytest.mark.parametrize(
    ("key_role", "maker", "acts_as"),
    [
        ("owner", {"role": "owner"}, "owner"),
        ("owner", {"role": "admin"}, "admin"),
        ("admin", {"role": "owner"}, "admin"),
        ("admin", {"role": "billing"}, "billing"),
        ("member", {"role": "admin"}, "member"),
        ("billing", {"role": "member"}, None),
        ("owner", {"staff": "admin"}, "owner"),
        ("owner", {"staff": "support"}, None),
        ("owner", {"staff": "admin", "role": "member"}, "member"),
        ("member", {}, None),
        ("member", {"role": "owner", "is_active": False}, None),
        ("member", {"staff": "admin", "is_active": False}, None),
    ],
)
def test_a_key_acts_with_no_more_than_its_makers_role(
    key_role: str, maker: dict[str, Any], acts_as: str | None
) -> None:
    key, _ = ApiKey.create(
        account_id=new_id(),
        name="k",
        role=Role(key_role),
        scopes=[],
        created_by=new_id(),
        expires_at=None,
        at=NOW,
    )
    today = Maker(
        is_active=maker.get("is_active", True),
        staff=StaffRole(maker["staff"]) if "staff" in maker else None,
        role=Role(maker["role"]) if "role" in maker else None,
        membership=None,
    )
    if acts_as is None:
        with pytest.raises(ApiKeyRefused):
            key.acting_role(today)
    else:
        assert key.acting_role(today) is Role(acts_as)


def test_signing_keys_overlap() -> None:
    first = new_key(signs_from=NOW, at=NOW)
    second = next_key(at=NOW)
    first.hand_over(second)
    assert second.is_published(at=NOW)
    assert second.signs_from > NOW
    assert first.is_published(at=second.signs_from)


@pytest.mark.parametrize(
    "password",
    ["rusty anchor violin cloud", "Zw3#kP9!vQx2", "пароль из слов", "x" * 6 + "abcdefgh9!?"],
)
def test_good_passwords_are_taken_whatever_they_are_made_of(password: str) -> None:
    check_strength(password, personal=("ada@example.com", "Ada Lovelace"))


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "elevenchars",
        "password1234",
        "Perennial2026!",
        "1234567890123456",
        "qwertyuiop123",
        "ababababababab",
        "adalovelace123!",
        "a" * 257,
    ],
)
def test_what_is_guessed_first_is_refused(password: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_strength(password, personal=("adalovelace@example.com", "Ada Lovelace"))
    assert refused.value.field == "password"


@given(st.text(min_size=MINIMUM_LENGTH, max_size=300))
def test_judging_a_password_ends_in_an_answer(password: str) -> None:
    with suppress(DomainError):
        check_strength(password, personal=(password[:20],))


async def test_passwords_are_argon2id_and_an_unknown_user_costs_the_same() -> None:
    passwords = Passwords(workers=1)
    kept = await passwords.hash("rusty anchor violin cloud")
    assert kept.startswith("$argon2id$")
    assert await passwords.verify("rusty anchor violin cloud", kept) == (True, None)
    assert await passwords.verify("rusty anchor violin", kept) == (False, None)
    times = {}
    for name, known in (("known", kept), ("unknown", None)):
        started = time.process_time()  # the work, whatever else the machine does
        for _ in range(5):
            assert await passwords.verify("wrong", known) == (False, None)
        times[name] = time.process_time() - started
    passwords.close()
    slow, fast = max(times.values()), min(times.values())
    assert slow < 3 * fast


async def test_an_older_hash_is_renewed() -> None:
    from pwdlib import PasswordHash  # noqa: PLC0415 -- only this test makes another hash
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415

    old = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8192, parallelism=1),)).hash("pw")
    passwords = Passwords(workers=1)
    right, renewed = await passwords.verify("pw", old)
    passwords.close()
    assert right
    assert renewed is not None
    assert renewed != old


def test_ids_of_sessions_sort_by_time() -> None:
    made = [a_session().id for _ in range(50)]
    assert all(one < two for one, two in pairwise(made))
