"""What auth does by the clock, in real time: test clocks move neither mail nor keys."""

from services.auth.resources import AuthRuntime, own
from services.auth.use_cases.clean_up import clean_up
from services.auth.use_cases.publish_revocations import publish_revocations
from services.auth.use_cases.rotate_keys import keep_keys_fresh
from services.auth.use_cases.send_mails import send_mails
from shared.schedule import Due, Schedule

schedule = Schedule()


@schedule.job(every=2.0)
async def send_waiting_mails(runtime: AuthRuntime, due: Due) -> int:
    """Woken by whatever writes a mail."""
    if due.account_id is not None:
        return 0
    return await send_mails(
        runtime.begin,
        own(runtime).mailer,
        public_url=runtime.settings.public_url,
        now=due.now,
    )


@schedule.job(every=1.0)
async def tell_what_was_revoked(runtime: AuthRuntime, due: Due) -> int:
    """Woken by whatever revokes; in between it says each second that there was nothing more."""
    if due.account_id is None:
        await publish_revocations(runtime.begin, own(runtime).revocations)
    return 0


@schedule.job(every=3600)
async def rotate_signing_keys(runtime: AuthRuntime, due: Due) -> int:
    """Every 90 days the next key; old ones go when no living token needs them."""
    if due.account_id is not None:
        return 0
    async with runtime.begin() as uow:
        return await keep_keys_fresh(uow, now=due.now)


@schedule.job(every=3600)
async def drop_what_is_over(runtime: AuthRuntime, due: Due) -> int:
    """Sessions, tokens, mails and invitations that nobody needs any more."""
    if due.account_id is not None:
        return 0
    async with runtime.begin() as uow:
        return await clean_up(uow, now=due.now)
