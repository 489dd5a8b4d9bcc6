"""Addresses that read alike are not two people's."""

import pytest
from sqlalchemy import update

from services.auth.tables import personal_details
from tests.auth.people import PASSWORD, People

#: A ligature, a full-width letter, a digit in a circle.
ALIKE = ("\ufb01ona@example.com", "\uff46iona@example.com", "fiona\u2460@example.com")


@pytest.mark.parametrize("address", ALIKE)
async def test_an_address_in_letters_that_read_as_others_is_not_taken_anew(
    people: People, address: str
) -> None:
    registered = await people.http.post(
        "/v1/auth/register", json={"email": address, "password": PASSWORD}
    )

    assert registered.status_code == 422
    assert [fault["field"] for fault in registered.json()["errors"]] == ["email"]


async def test_who_came_with_such_an_address_before_goes_on_with_it(people: People) -> None:
    person = await people.verified()
    old = f"\ufb01{person.user_id}@example.com"
    async with people.auth.runtime.begin() as uow:
        await uow.session.execute(
            update(personal_details)
            .where(personal_details.c.user_id == person.user_id)
            .values(email=old, address_key=old)
        )

    entered = await people.http.post("/v1/auth/login", json={"email": old, "password": PASSWORD})

    assert entered.status_code == 200
