"""Keep what other services report of accounts."""

from services.subscriptions.domain.account import Account, PaymentMethod, Project
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.events.auth import (
    AccountClosed,
    AccountRegistered,
    AccountUpdated,
    ProjectActivated,
    ProjectArchived,
    ProjectCreated,
)
from shared.events.payments import PaymentMethodAttached, PaymentMethodDetached


async def know_account(
    uow: SubscriptionsUnitOfWork, event: AccountRegistered | AccountUpdated | AccountClosed
) -> None:
    """Where the account is. Running periods keep their bounds; the next one follows a new zone."""
    account = await uow.accounts.find(event.account_id)
    if account is None:
        account = Account(id=event.account_id, country="", time_zone="UTC")
        uow.accounts.add(account)
    if isinstance(event, AccountClosed):
        account.closed = True
    elif event.sequence > account.version:
        account.country, account.time_zone = event.country, event.time_zone
        account.version = event.sequence
    await uow.session.flush()


async def know_payment_method(
    uow: SubscriptionsUnitOfWork, event: PaymentMethodAttached | PaymentMethodDetached
) -> None:
    """Whether the account can pay."""
    method = await uow.accounts.payment_method(event.payment_method_id)
    if method is None:
        method = PaymentMethod(
            id=event.payment_method_id,
            account_id=event.account_id,
            is_default=False,
            attached=False,
            version=0,
        )
        uow.accounts.add(method)
    if event.sequence > method.version:
        method.version = event.sequence
        method.attached = isinstance(event, PaymentMethodAttached)
        method.is_default = isinstance(event, PaymentMethodAttached) and event.is_default
    await uow.session.flush()


async def know_project(
    uow: SubscriptionsUnitOfWork, event: ProjectCreated | ProjectActivated | ProjectArchived
) -> None:
    """Whether new subscriptions may belong to it."""
    project = await uow.accounts.project(event.project_id)
    if project is None:
        project = Project(id=event.project_id, account_id=event.account_id)
        uow.accounts.add(project)
    if event.sequence > project.version:
        project.version = event.sequence
        if isinstance(event, ProjectCreated):
            project.active = event.status == "active"
        else:
            project.active = isinstance(event, ProjectActivated)
    await uow.session.flush()
