"""What subscriptions reads of invoicing's answers is what invoicing's document promises."""

import json
from typing import Any

import pytest

from infra.docs.pages import pages

#: By the name in subscriptions' document: the name in invoicing's.
READ = {
    "PricedInvoice": "InvoiceView",
    "PricedLine": "LineView",
    "PricedTax": "TaxView",
    "PricedCreditNote": "CreditNoteView",
}


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    made = pages()
    return {
        name: json.loads(made[f"tests/contracts/openapi/{name}.json"])
        for name in ("subscriptions", "invoicing")
    }


def kinds(schema: dict[str, Any]) -> set[str]:
    """What a field may be, without what each service calls it."""
    if "anyOf" in schema:
        return {kind for one in schema["anyOf"] for kind in kinds(one)}
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {READ.get(name, name)}
    if schema.get("type") == "array":
        return {f"list of {kind}" for kind in kinds(schema["items"])}
    return {schema.get("format") or schema.get("type") or "any"}


@pytest.mark.parametrize("name", READ)
def test_every_field_that_is_read_is_promised(documents: dict[str, Any], name: str) -> None:
    schemas = {at: found["components"]["schemas"] for at, found in documents.items()}
    read = schemas["subscriptions"][name]["properties"]
    promise = schemas["invoicing"][READ[name]]

    missing = {field for field in read if field not in promise["properties"]}
    other = {
        field: (kinds(schema), kinds(promise["properties"][field]))
        for field, schema in read.items()
        if field not in missing
        and not kinds(schema) >= kinds(promise["properties"][field])
        and promise["properties"][field].get("$ref") is None
    }

    assert not missing
    assert not other
    assert set(read) <= set(promise["required"])


def test_a_preview_is_asked_for_as_it_is_documented(documents: dict[str, Any]) -> None:
    operation = documents["invoicing"]["paths"]["/v1/invoices/preview"]["post"]
    schemas = documents["invoicing"]["components"]["schemas"]

    def body(content: dict[str, Any]) -> dict[str, Any]:
        name = content["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        found: dict[str, Any] = schemas[name]
        return found

    assert set(body(operation["requestBody"]).get("required", ())) == {"events"}
    answer = body(operation["responses"]["200"])
    assert {"invoice", "credit_notes"} <= set(answer["required"])
    assert kinds(answer["properties"]["invoice"]) == {"InvoiceView", "null"}
    assert "/v1/invoices/upcoming" in documents["subscriptions"]["paths"]
    assert "/v1/invoices/upcoming" not in documents["invoicing"]["paths"]
