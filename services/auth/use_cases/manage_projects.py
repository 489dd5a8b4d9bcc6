"""Create, rename and move an account's projects."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from services.auth.domain.projects import (
    IllegalProjectTransition,
    Project,
    ProjectNameTaken,
    ProjectStatus,
)
from services.auth.repository import AuthUnitOfWork


async def create_project(
    uow: AuthUnitOfWork,
    account_id: UUID,
    *,
    name: str,
    description: str | None,
    status: ProjectStatus,
    now: datetime,
) -> Project:
    if status is ProjectStatus.ARCHIVED:
        raise IllegalProjectTransition("A project begins as draft or active.", field="status")
    project, created = Project.create(
        account_id=account_id,
        name=name,
        description=description,
        active=status is ProjectStatus.ACTIVE,
        at=now,
    )
    uow.projects.add(project)
    await _flush(uow)
    uow.emit(created)
    uow.audit("project.created", project.id, after={"status": project.status})
    return project


async def update_project(
    uow: AuthUnitOfWork,
    project: Project,
    *,
    name: str | None,
    description: str | None,
    status: ProjectStatus | None,
    now: datetime,
) -> Project:
    before = project.status
    renamed = project.rename(name=name, description=description, at=now)
    await _flush(uow)
    if renamed is not None:
        uow.emit(renamed)
    if status is not None and status is not project.status:
        if status is ProjectStatus.ACTIVE:
            uow.emit(project.activate(at=now))
        elif status is ProjectStatus.ARCHIVED:
            uow.emit(project.archive(at=now))
        else:
            raise IllegalProjectTransition("A project cannot become a draft again.")
    uow.audit(
        "project.updated",
        project.id,
        before={"status": before},
        after={"status": project.status},
    )
    return project


async def _flush(uow: AuthUnitOfWork) -> None:
    try:
        await uow.session.flush()
    except IntegrityError as error:
        raise ProjectNameTaken("The account has a project of this name.", field="name") from error
