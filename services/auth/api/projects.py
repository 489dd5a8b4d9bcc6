"""An account's projects."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Response
from pydantic import BaseModel, Field

from services.auth import queries
from services.auth.api.views import Name, Strict
from services.auth.domain.projects import (
    IllegalProjectTransition,
    Project,
    ProjectNameTaken,
    ProjectNotFound,
    ProjectStatus,
)
from services.auth.domain.roles import Role
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.manage_projects import create_project, update_project
from shared.errors import BadRequest, PreconditionFailed
from shared.web import (
    Edge,
    Page,
    PageRequest,
    Reading,
    Router,
    command,
    for_role,
    listing,
    page_request,
    problems,
    reading,
)

router = Router(prefix="/v1/projects", tags=["projects"])

#: Who may make and change projects.
WRITER = for_role(Role.ADMIN, Role.MEMBER)

Description = Annotated[str, Field(max_length=2000)]


class ProjectView(BaseModel):
    id: UUID
    account_id: UUID
    name: str
    description: str | None
    status: ProjectStatus
    created_at: datetime
    version: int


def _view(project: Project) -> ProjectView:
    return ProjectView(
        id=project.id,
        account_id=project.account_id,
        name=project.name,
        description=project.description,
        status=project.status,
        created_at=project.created_at,
        version=project.version,
    )


@router.get("", responses=problems(BadRequest))
async def list_projects(
    edge: Annotated[Reading[AuthUnitOfWork], Depends(listing)],
    page: Annotated[PageRequest, Depends(page_request)],
    status: Annotated[ProjectStatus | None, Query()] = None,
) -> Page[ProjectView]:
    async with edge.begin() as uow:
        found = await queries.projects(uow, edge.account_id, page, status=status)
        return page.page(found, _view, lambda one: one.id)


class CreateProjectRequest(Strict):
    name: Name
    description: Description | None = None
    status: ProjectStatus = ProjectStatus.DRAFT


@router.post(
    "",
    status_code=201,
    response_model=ProjectView,
    responses=problems(ProjectNameTaken, IllegalProjectTransition, BadRequest),
    dependencies=[WRITER],
)
async def create(
    body: CreateProjectRequest, edge: Annotated[Edge[AuthUnitOfWork], Depends(command)]
) -> Response:
    """A new project, as a draft or active at once."""
    async with edge.begin() as uow:
        project = await create_project(
            uow,
            edge.account_id,
            name=body.name,
            description=body.description,
            status=body.status,
            now=edge.now,
        )
        return await edge.answer(uow, _view(project), status=201)


@router.get("/{project_id}", response_model=ProjectView, responses=problems(ProjectNotFound))
async def read(
    project_id: UUID, edge: Annotated[Reading[AuthUnitOfWork], Depends(reading)]
) -> Response:
    async with edge.begin() as uow:
        return edge.reply(_view(await queries.project(uow, project_id)))


class UpdateProjectRequest(Strict):
    name: Name | None = None
    description: Description | None = None
    status: ProjectStatus | None = None


@router.patch(
    "/{project_id}",
    response_model=ProjectView,
    responses=problems(
        ProjectNotFound, ProjectNameTaken, IllegalProjectTransition, PreconditionFailed
    ),
    dependencies=[WRITER],
)
async def update(
    project_id: UUID,
    body: UpdateProjectRequest,
    edge: Annotated[Edge[AuthUnitOfWork], Depends(command)],
) -> Response:
    """Rename it, or move it: draft → active ⇄ archived."""
    async with edge.begin() as uow:
        project = await uow.projects.get(project_id)
        edge.require_version(project.version)
        await update_project(
            uow,
            project,
            name=body.name,
            description=body.description,
            status=body.status,
            now=edge.now,
        )
        return await edge.answer(uow, _view(project))
