"""`python -m services.auth staff`, `key`, `rotate-keys`, and what each deployment makes sure of."""

import argparse
import sys
from datetime import timedelta
from ipaddress import ip_network

from pydantic import TypeAdapter, ValidationError

from services.auth import queries
from services.auth.addresses import Address
from services.auth.domain.roles import StaffRole
from services.auth.domain.users import PasswordRefused
from services.auth.passwords import check_strength
from services.auth.resources import AuthRuntime, own
from services.auth.settings import DEVELOPMENT_STAFF
from services.auth.use_cases.create_operator_key import create_operator_key
from services.auth.use_cases.create_staff import create_staff
from services.auth.use_cases.rotate_keys import ensure_key, rotate_keys
from shared.clock import utc_now
from shared.errors import Conflict, Invalid
from shared.observability import logger
from shared.security import KeyScope

log = logger(__name__)


class NotAnAddress(Invalid):
    code = "not-an-address"


class DevelopmentStaff(Conflict):
    """In production nobody comes in as the staff user whose password everybody knows."""

    code = "development-staff"


async def staff(runtime: AuthRuntime, arguments: list[str]) -> int:
    """Make a staff user. The password comes from PERENNIAL_STAFF_PASSWORD or standard input."""
    parser = argparse.ArgumentParser(prog="python -m services.auth staff")
    parser.add_argument("email", help="the address that they log in with")
    parser.add_argument("--role", type=StaffRole, choices=list(StaffRole), default=StaffRole.ADMIN)
    given = parser.parse_args(arguments)
    password = _password(runtime)
    is_new = await _make_staff(runtime, given.email, password, given.role)
    done = (
        "is a new staff user"
        if is_new
        else "was registered already, keeps their password, and is staff now"
    )
    sys.stdout.write(f"{given.email} {done} ({given.role}).\n")
    return 0


def _password(runtime: AuthRuntime) -> str:
    set_one = runtime.settings.staff_password
    if set_one is not None:
        return set_one.get_secret_value()
    typed = sys.stdin.readline().rstrip("\n")
    if not typed:
        raise PasswordRefused("Give the password in PERENNIAL_STAFF_PASSWORD or on standard input.")
    return typed


async def _make_staff(runtime: AuthRuntime, email: str, password: str, role: StaffRole) -> bool:
    address, password_hash = await _credentials(runtime, email, password)
    async with runtime.begin() as uow:
        _, is_new = await create_staff(
            uow, email=address, password_hash=password_hash, role=role, now=utc_now()
        )
        return is_new


async def _credentials(runtime: AuthRuntime, email: str, password: str) -> tuple[str, str]:
    try:
        address: str = TypeAdapter(Address).validate_python(email)
    except ValidationError as error:
        raise NotAnAddress(f"{email!r} is not an e-mail address.") from error
    try:
        check_strength(password, personal=(address,))
    except PasswordRefused as refused:
        raise PasswordRefused(f"The password of {address} was refused. {refused}") from refused
    return address, await own(runtime).passwords.hash(password)


async def key(runtime: AuthRuntime, arguments: list[str]) -> int:
    """Make a secret key for the operator's backend: it alone goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m services.auth key")
    parser.add_argument("name", help="what uses it, such as backend")
    parser.add_argument(
        *("--scopes", "-s"),
        required=True,
        type=_scopes,
        help=f"separated by commas, or `all`: {', '.join(KeyScope)}",
    )
    parser.add_argument(
        *("--from", "-f"),
        dest="networks",
        type=ip_network,
        action="append",
        default=[],
        help="a network (CIDR) from which alone it may be used; may be repeated",
    )
    parser.add_argument("--expires-in-days", type=int, help="it is good for ever otherwise")
    given = parser.parse_args(arguments)
    if not given.name.strip():
        parser.error("give the key a name")
    now = utc_now()
    expires_at = now + timedelta(days=given.expires_in_days) if given.expires_in_days else None
    async with runtime.begin() as uow:
        made, _, plain = await create_operator_key(
            uow,
            name=given.name,
            scopes=given.scopes,
            networks=given.networks,
            expires_at=expires_at,
            now=now,
        )
    sys.stderr.write(f"{made.name} is key {made.id}. It is shown this once; keep it as a secret.\n")
    sys.stdout.write(f"{plain}\n")
    return 0


def _scopes(text: str) -> list[KeyScope]:
    if text == "all":
        return list(KeyScope)
    words = text.replace(",", " ").split()
    unknown = sorted(set(words) - set(KeyScope))
    if unknown or not words:
        said = f"{', '.join(unknown)} is no scope" if unknown else "name at least one"
        raise argparse.ArgumentTypeError(f"{said}; there are: all, {', '.join(KeyScope)}")
    return [KeyScope(word) for word in words]


async def rotate(runtime: AuthRuntime, arguments: list[str]) -> int:
    """Bring the next signing key. Nobody is logged out by it."""
    argparse.ArgumentParser(prog="python -m services.auth rotate-keys").parse_args(arguments)
    async with runtime.begin() as uow:
        key = await rotate_keys(uow, now=utc_now())
    sys.stdout.write(f"Key {key.kid} is published and signs from {key.signs_from:%H:%M:%S} UTC.\n")
    return 0


async def after_migrate(runtime: AuthRuntime) -> None:
    """A key to sign with, and the first staff user where the environment names one."""
    settings = runtime.settings
    async with runtime.begin() as uow:
        if settings.environment == "production" and await queries.has_staff_at(
            uow, DEVELOPMENT_STAFF
        ):
            raise DevelopmentStaff(
                f"The staff user of development, {DEVELOPMENT_STAFF}, can still come in. Make a "
                "staff user of your own, and have them take this one's role away."
            )
    async with runtime.begin() as uow:
        await ensure_key(uow, now=utc_now())
    if not (settings.staff_email and settings.staff_password):
        return
    async with runtime.begin() as uow:
        if await queries.is_staffed(uow):
            return
    address, password_hash = await _credentials(
        runtime, settings.staff_email, settings.staff_password.get_secret_value()
    )
    async with runtime.begin() as uow:
        await uow.signing_keys.lock()  # of two deployments at once, the second one sees the first
        if not await queries.is_staffed(uow):
            await create_staff(
                uow,
                email=address,
                password_hash=password_hash,
                role=StaffRole.ADMIN,
                now=utc_now(),
            )
            log.info("The first staff user was made")
