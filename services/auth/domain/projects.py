"""Projects: what an account's subscriptions may belong to."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict
from uuid import UUID

from shared.errors import Conflict, NotFound
from shared.events.auth import (
    ProjectActivated,
    ProjectArchived,
    ProjectCreated,
    ProjectUpdated,
)
from shared.ids import new_id


class ProjectStatus(StrEnum):
    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


#: The whole state machine: an archived project can be taken out again.
MOVES: dict[ProjectStatus, set[ProjectStatus]] = {
    ProjectStatus.DRAFT: {ProjectStatus.ACTIVE, ProjectStatus.ARCHIVED},
    ProjectStatus.ACTIVE: {ProjectStatus.ARCHIVED},
    ProjectStatus.ARCHIVED: {ProjectStatus.ACTIVE},
}


class ProjectNotFound(NotFound):
    code = "project-not-found"


class ProjectNameTaken(Conflict):
    """The account has a project of this name."""

    code = "project-name-taken"


class IllegalProjectTransition(Conflict):
    """Projects go from draft to active, and from either to the archive and back."""

    code = "illegal-project-transition"


class _Facts(TypedDict):
    occurred_at: datetime
    account_id: UUID
    sequence: int
    project_id: UUID


@dataclass(eq=False, kw_only=True)
class Project:
    id: UUID
    account_id: UUID
    name: str
    description: str | None = None
    status: ProjectStatus = ProjectStatus.DRAFT
    created_at: datetime
    version: int = 0

    @classmethod
    def create(
        cls,
        *,
        account_id: UUID,
        name: str,
        description: str | None,
        active: bool,
        at: datetime,
    ) -> tuple["Project", ProjectCreated]:
        project = cls(
            id=new_id(),
            account_id=account_id,
            name=name,
            description=description,
            status=ProjectStatus.ACTIVE if active else ProjectStatus.DRAFT,
            created_at=at,
        )
        return project, ProjectCreated(**project._next(at), status="active" if active else "draft")

    def rename(
        self, *, name: str | None, description: str | None, at: datetime
    ) -> ProjectUpdated | None:
        """Change what is given. Nothing new is no event."""
        before = (self.name, self.description)
        self.name = name or self.name
        self.description = self.description if description is None else description
        return None if (self.name, self.description) == before else ProjectUpdated(**self._next(at))

    def activate(self, *, at: datetime) -> ProjectActivated:
        self._move_to(ProjectStatus.ACTIVE)
        return ProjectActivated(**self._next(at))

    def archive(self, *, at: datetime) -> ProjectArchived:
        self._move_to(ProjectStatus.ARCHIVED)
        return ProjectArchived(**self._next(at))

    def _move_to(self, target: ProjectStatus) -> None:
        if target not in MOVES[self.status]:
            raise IllegalProjectTransition(
                f"A project that is {self.status} cannot become {target}."
            )
        self.status = target

    def _next(self, at: datetime) -> _Facts:
        self.version += 1
        return {
            "occurred_at": at,
            "account_id": self.account_id,
            "sequence": self.version,
            "project_id": self.id,
        }
