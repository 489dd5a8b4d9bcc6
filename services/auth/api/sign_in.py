"""Coming in: register, verify, log in, refresh, log out, forgotten passwords, API keys' tokens."""

from dataclasses import replace
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field

from services.auth.addresses import Address, KnownAddress
from services.auth.api.edges import Auth, From, PublicCommand
from services.auth.api.views import (
    Accepted,
    AccountView,
    Code,
    DeviceSecret,
    Name,
    Password,
    Strict,
    Token,
    UserView,
)
from services.auth.domain.accounts import (
    AccountNotFound,
    AccountStatus,
    UnknownCountry,
    UnknownTimeZone,
)
from services.auth.domain.api_keys import KEY_PREFIX
from services.auth.domain.keys import ACCESS_LIFE
from services.auth.domain.mail import Template
from services.auth.domain.mfa import SecondFactorRequired, SecondFactorWrong
from services.auth.domain.registrations import PasswordRequired, Registration
from services.auth.domain.sessions import RefreshTokenRefused, TokenRefused
from services.auth.domain.users import (
    AddressNotVerified,
    PasswordRefused,
    UserIsSuspended,
    UserStatus,
    WrongCredentials,
)
from services.auth.mail_limits import TooManyMails
from services.auth.passwords import PasswordBusy, check_strength
from services.auth.resources import Resources
from services.auth.throttle import TooManyTries
from services.auth.tokens import end_of
from services.auth.use_cases.exchange_api_key import exchange_api_key
from services.auth.use_cases.grants import Grant
from services.auth.use_cases.log_in import log_in
from services.auth.use_cases.log_out import log_out
from services.auth.use_cases.mail_tokens import ask_for_mail
from services.auth.use_cases.refresh_session import refresh_session
from services.auth.use_cases.register_user import register_user
from services.auth.use_cases.reset_password import check_reset, reset_password
from services.auth.use_cases.verify_email import Newcomer, choose_password, verify_email
from shared.clock import utc_now
from shared.security import AddressNotAllowed, ApiKeyRefused, KeyMistyped, require_network
from shared.web import Router, problems

router = Router(prefix="/v1/auth", tags=["sign-in"])


class RegisterRequest(Strict):
    email: Address
    password: Password
    full_name: Name | None = None
    account_name: Name | None = None
    country: str | None = Field(None, max_length=2, description="ISO 3166-1 alpha-2.")
    time_zone: str | None = Field(None, max_length=64, description="An IANA name.")


class RegisteredView(BaseModel):
    """What there will be once the address is confirmed with the password of this sign-up."""

    user: UserView
    account: AccountView

    @classmethod
    def of(cls, registration: Registration) -> "RegisteredView":
        return cls(
            user=UserView(
                id=registration.id,
                email=registration.email,
                full_name=registration.full_name,
                status=UserStatus.PENDING,
                staff=None,
                created_at=registration.created_at,
                version=1,
            ),
            account=AccountView(
                id=registration.account_id,
                name=registration.account_name or registration.full_name,
                country=registration.country,
                time_zone=registration.time_zone,
                email=None,
                language=None,
                currency=None,
                external_id=None,
                metadata=None,
                status=AccountStatus.OPEN,
                created_at=registration.created_at,
                version=1,
            ),
        )


@router.post(
    "/register",
    status_code=201,
    response_model=RegisteredView,
    responses=problems(PasswordRefused, UnknownCountry, UnknownTimeZone, TooManyMails),
)
async def register(
    body: RegisterRequest, edge: PublicCommand, auth: Auth, device: From
) -> Response:
    """Sign up. A mail with a token goes to the address; log-in works once it is verified.

    The answer is the same for every address: of one that has an account, the owner is told so.
    """
    check_strength(body.password, personal=(body.email, body.full_name or ""))
    password_hash = await auth.passwords.hash(body.password)
    settings = edge.runtime.settings
    async with edge.begin() as uow:
        await auth.mail_limits.asked(Template.SIGN_UP, body.email, device.ip)
        registration = register_user(
            uow,
            email=body.email,
            password_hash=password_hash,
            full_name=body.full_name,
            account_name=body.account_name,
            country=body.country or settings.default_country,
            time_zone=body.time_zone or settings.default_time_zone,
            now=edge.now,
        )
        return await edge.answer(uow, RegisteredView.of(registration), status=201)


class VerifyRequest(Strict):
    """The rest is for somebody who did not sign up themself, and starts afresh."""

    token: Token
    password: Password | None = Field(
        None, description="The one that you signed up with, or a new one if you did not."
    )
    full_name: Name | None = None
    account_name: Name | None = None
    country: str | None = Field(None, max_length=2, description="ISO 3166-1 alpha-2.")
    time_zone: str | None = Field(None, max_length=64, description="An IANA name.")


class VerifiedView(BaseModel):
    id: UUID
    account_id: UUID
    status: str


@router.post(
    "/verify-email",
    response_model=VerifiedView,
    responses=problems(
        TokenRefused,
        PasswordRequired,
        PasswordRefused,
        UnknownCountry,
        UnknownTimeZone,
        TooManyTries,
    ),
)
async def verify(body: VerifyRequest, edge: PublicCommand, auth: Auth, device: From) -> Response:
    """Confirm the address with the token from the mail, and say which password you come in with.

    With the password of a sign-up, what was entered there is yours. With another one you start
    afresh with that: a stranger may have signed up with your address, and all of theirs is gone.
    The token works once.
    """
    settings = edge.runtime.settings
    newcomer = Newcomer(
        full_name=body.full_name,
        account_name=body.account_name,
        country=body.country or settings.default_country,
        time_zone=body.time_zone or settings.default_time_zone,
    )
    async with auth.throttle.token(device.ip):
        choice = await choose_password(
            edge.runtime.begin,
            auth.passwords,
            token=body.token,
            password=body.password,
            personal=(body.full_name or "",),
            now=edge.now,
        )
        async with edge.begin() as uow:
            user = await verify_email(
                uow, token=body.token, choice=choice, newcomer=newcomer, now=edge.now
            )
            view = VerifiedView(id=user.id, account_id=user.home_account_id, status=user.status)
            return await edge.answer(uow, view)


class AddressRequest(Strict):
    email: KnownAddress


@router.post(
    "/verify-email/resend",
    status_code=202,
    response_model=Accepted,
    responses=problems(TooManyMails),
)
async def resend_verification(
    body: AddressRequest, edge: PublicCommand, auth: Auth, device: From
) -> Response:
    """Have the mail sent again. The answer is the same for every address."""
    async with edge.begin() as uow:
        await auth.mail_limits.asked(Template.SIGN_UP, body.email, device.ip)
        ask_for_mail(uow, body.email, Template.SIGN_UP, now=edge.now)
        return await edge.answer(uow, Accepted(), status=202)


class LogInRequest(Strict):
    email: KnownAddress
    password: Password
    totp: Code = None
    device_secret: DeviceSecret = None
    account_id: UUID | None = Field(None, description="Which account the token is for.")


class GrantView(BaseModel):
    access_token: str
    refresh_token: str
    token_type: str = "Bearer"  # noqa: S105 -- the kind of token
    expires_in: int


async def _granted(auth: Resources, grant: Grant, response: Response) -> GrantView:
    response.headers["cache-control"] = "no-store"
    return GrantView(
        access_token=await auth.issuer.access_token(grant.bearer, at=utc_now()),
        refresh_token=grant.refresh_token,
        expires_in=int(ACCESS_LIFE.total_seconds()),
    )


@router.post(
    "/login",
    responses=problems(
        WrongCredentials,
        SecondFactorRequired,
        SecondFactorWrong,
        AddressNotVerified,
        UserIsSuspended,
        AccountNotFound,
        TooManyTries,
        PasswordBusy,
    ),
)
async def login(
    body: LogInRequest, edge: PublicCommand, auth: Auth, device: From, response: Response
) -> GrantView:
    """Trade address and password for tokens to one account, by default the first one joined.

    Nothing of the answer is kept, so an Idempotency-Key has no effect here.
    """
    grant = await log_in(
        edge.runtime.begin,
        auth.passwords,
        auth.throttle,
        email=body.email,
        password=body.password,
        code=body.totp,
        account_id=body.account_id,
        device=replace(device, secret=body.device_secret),
        now=edge.now,
    )
    return await _granted(auth, grant, response)


class RefreshRequest(Strict):
    refresh_token: Token


@router.post("/refresh", responses=problems(RefreshTokenRefused))
async def refresh(
    body: RefreshRequest, edge: PublicCommand, auth: Auth, response: Response
) -> GrantView:
    """Trade a refresh token for the next pair. Used twice, it ends the whole session."""
    async with edge.runtime.begin() as uow:
        grant = await refresh_session(uow, refresh_token=body.refresh_token, now=edge.now)
    if grant is None:  # said after the commit: a reuse has ended the session
        raise RefreshTokenRefused
    return await _granted(auth, grant, response)


@router.post("/logout", status_code=204)
async def logout(body: RefreshRequest, edge: PublicCommand) -> Response:
    """End the session that a refresh token belongs to."""
    async with edge.runtime.begin() as uow:
        await log_out(uow, refresh_token=body.refresh_token, now=edge.now)
    return Response(status_code=204)


@router.post(
    "/password/forgot",
    status_code=202,
    response_model=Accepted,
    responses=problems(TooManyMails),
)
async def forgot(body: AddressRequest, edge: PublicCommand, auth: Auth, device: From) -> Response:
    """Have a token mailed to choose a new password with. Same answer for every address."""
    async with edge.begin() as uow:
        await auth.mail_limits.asked(Template.RESET_PASSWORD, body.email, device.ip)
        ask_for_mail(uow, body.email, Template.RESET_PASSWORD, now=edge.now)
        return await edge.answer(uow, Accepted(), status=202)


class ResetRequest(Strict):
    token: Token
    password: Password
    device_secret: DeviceSecret = None


@router.post(
    "/password/reset",
    status_code=204,
    responses=problems(TokenRefused, PasswordRefused, TooManyTries),
)
async def reset(body: ResetRequest, edge: PublicCommand, auth: Auth, device: From) -> Response:
    """Choose a new password with the token from the mail. Every session ends.

    What others guessed wrong does not delay the next log-in from here.
    """
    here = replace(device, secret=body.device_secret)
    async with auth.throttle.token(device.ip):
        async with edge.runtime.begin() as uow:
            personal = await check_reset(uow, token=body.token, now=edge.now)
        check_strength(body.password, personal=personal)
        password_hash = await auth.passwords.hash(body.password)
        async with edge.runtime.begin() as uow:
            user, address = await reset_password(
                uow, token=body.token, password_hash=password_hash, device=here, now=edge.now
            )
    await auth.throttle.start_over(address, user.id, device.ip)
    return Response(status_code=204)


class AccessView(BaseModel):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 -- the kind of token
    expires_in: int
    scope: str


@router.post("/token", responses=problems(ApiKeyRefused, KeyMistyped, AddressNotAllowed))
async def token(edge: PublicCommand, auth: Auth, device: From, response: Response) -> AccessView:
    """Trade an API key, sent as the bearer token, for a short-lived access token.

    The token is in the header `X-Access-Token` too, for gateways that ask on a client's behalf.
    """
    _, _, secret = edge.request.headers.get("authorization", "").partition(" ")
    if not secret.startswith(KEY_PREFIX):
        raise ApiKeyRefused
    async with edge.runtime.begin() as uow:
        bearer = await exchange_api_key(uow, secret=secret, now=edge.now)
        if "x-forwarded-for" in edge.request.headers:
            # Through the gateway, which says from where. A service that asks for whoever it
            # answers looks at the token's networks itself.
            require_network(bearer.networks, device.ip, key=bearer.subject)
    now = utc_now()
    access_token = await auth.issuer.access_token(bearer, at=now)
    response.headers["cache-control"] = "no-store"
    response.headers["x-access-token"] = access_token
    return AccessView(
        access_token=access_token,
        expires_in=int((end_of(bearer, at=now) - now).total_seconds()),
        scope=" ".join(bearer.scopes or ()),
    )
