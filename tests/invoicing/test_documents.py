"""Documents and attachments: made off the request, stored, and handed out."""

import hashlib
import io
from collections import Counter
from decimal import Decimal
from typing import Any

import httpx
import pikepdf
from lxml import etree  # type: ignore[import-untyped]

from shared.ids import new_id
from tests.invoicing.conftest import NewAccount, body, key, until
from tests.invoicing.test_pdf import amounts_in, text_of
from tests.tokens import TokenIssuer

CBC = "{urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2}"


async def an_invoice(
    http: httpx.AsyncClient, staff: dict[str, str], account: object, **fields: Any
) -> dict[str, Any]:
    wanted = {
        "account_id": str(account),
        "currency": "EUR",
        "lines": [
            {"description": "Set-up", "unit_amount": "80000"},
            {"description": "Gutschein #panic $x$", "unit_amount": "-5000"},
        ],
        **fields,
    }
    made: dict[str, Any] = body(await http.post("/v1/invoices", json=wanted, headers=staff | key()))
    return made


async def test_an_invoice_has_a_pdf_with_the_e_invoice_in_it_and_a_ubl(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account = await new_account()
    me = issuer.of_account(account)
    details = {"name": "شركة Łąkowa 株式会社", "language": "ar"}
    await http.put("/v1/billing-details", json=details, headers=me)
    invoice = await an_invoice(http, staff, account)

    pdf = await download(http, f"/v1/invoices/{invoice['id']}/pdf", me)
    xml = await download(http, f"/v1/invoices/{invoice['id']}/xml", me)
    foreign = await http.get(
        f"/v1/invoices/{invoice['id']}/pdf", headers=issuer.of_account(new_id())
    )

    assert pdf.headers["content-type"] == "application/pdf"
    with pikepdf.open(io.BytesIO(pdf.content)) as document:
        [attached] = document.attachments.values()
        cii = etree.fromstring(attached.get_file().read_bytes())
        assert b"urn:factur-x:pdfa" in document.Root.Metadata.read_bytes()
    totals = {e.tag.split("}")[1]: e.text for e in cii.iter() if "Amount" in str(e.tag)}
    assert totals["GrandTotalAmount"] == "892.50"
    ubl = etree.fromstring(xml.content)
    assert ubl.find(f".//{CBC}ID").text == invoice["number"]
    payable = Decimal(ubl.find(f".//{CBC}PayableAmount").text)
    assert payable * 100 == invoice["amount_due"]["amount"]
    assert foreign.status_code == 404
    assert hashlib.sha256(pdf.content).hexdigest() == pdf.headers["etag"].strip('"')


async def test_the_text_of_a_pdf_has_the_amounts_of_the_api(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    invoice = await an_invoice(http, staff, await new_account())
    await http.post(f"/v1/invoices/{invoice['id']}/mark-paid", json={}, headers=staff)
    wanted = {"invoice_id": invoice["id"], "amount": 1190, "reason": "Late"}
    note = body(await http.post("/v1/credit-notes", json=wanted, headers=staff | key()))

    for path, said, of_line in (
        ("invoices", invoice, "amount"),
        ("credit-notes", note, "net"),
    ):
        pdf = await download(http, f"/v1/{path}/{said['id']}/pdf", staff)
        shown = amounts_in(text_of(pdf.content))
        totals = ["net", "tax", "total"] + (["amount_due"] if path == "invoices" else [])
        due = Counter(said[name]["amount"] for name in totals)
        due.update(line[of_line]["amount"] for line in said["lines"])
        assert due <= shown, (due, shown)
        assert said["number"] in text_of(pdf.content)


async def test_a_credit_note_has_its_documents_too(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    account = await new_account()
    invoice = await an_invoice(http, staff, account)
    await http.post(f"/v1/invoices/{invoice['id']}/mark-paid", json={}, headers=staff)
    wanted = {"invoice_id": invoice["id"], "amount": 1190, "reason": "Late"}
    note = body(await http.post("/v1/credit-notes", json=wanted, headers=staff | key()))

    xml = await download(http, f"/v1/credit-notes/{note['id']}/xml", staff)
    pdf = await download(http, f"/v1/credit-notes/{note['id']}/pdf", staff)

    assert pdf.content.startswith(b"%PDF")
    root = etree.fromstring(xml.content)
    assert root.tag.endswith("}CreditNote")
    assert invoice["number"] in xml.text


async def test_a_draft_has_no_document(
    http: httpx.AsyncClient, staff: dict[str, str], new_account: NewAccount
) -> None:
    draft = await an_invoice(http, staff, await new_account(), draft=True)

    answer = await http.get(f"/v1/invoices/{draft['id']}/pdf", headers=staff)

    assert answer.status_code == 404


async def download(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> httpx.Response:
    """The file, as soon as it is made: a busy machine may need longer than one request waits."""

    async def made() -> httpx.Response | None:
        answer = await http.get(path, headers=headers)
        return answer if answer.status_code != 409 else None

    found = await until(made, within=60)
    assert found is not None
    return found


def a_file(content: bytes, **fields: Any) -> dict[str, Any]:
    usual = {
        "filename": "contract.txt",
        "content_type": "text/plain",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {**usual, **fields}


async def test_an_attachment_is_uploaded_checked_and_downloaded_by_links(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount
) -> None:
    me = issuer.of_account(await new_account())
    declared = body(await http.post("/v1/attachments", json=a_file(b"We agree."), headers=me))
    path = f"/v1/attachments/{declared['id']}"
    early = await http.post(f"{path}/complete", headers=me)

    put = await http.put(declared["url"], content=b"We agree.")
    done = body(await http.post(f"{path}/complete", headers=me))
    got = await http.get(done["url"])
    foreign = await http.get(path, headers=issuer.of_account(new_id()))

    assert early.json()["code"] == "attachment-not-uploaded"
    assert put.status_code == 204
    assert (done["state"], done["method"]) == ("complete", "GET")
    assert got.content == b"We agree."
    assert got.headers["x-content-type-options"] == "nosniff"
    assert foreign.status_code == 404


async def test_what_is_not_what_was_declared_is_refused_and_leaves_nothing(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount
) -> None:
    me = issuer.of_account(await new_account())
    declared = body(await http.post("/v1/attachments", json=a_file(b"We agree."), headers=me))

    other = await http.put(declared["url"], content=b"We AGREE.")
    longer = await http.put(declared["url"], content=b"We agree. Not.")
    complete = await http.post(f"/v1/attachments/{declared['id']}/complete", headers=me)

    assert other.json()["code"] == longer.json()["code"] == "attachment-mismatch"
    assert complete.json()["code"] == "attachment-not-uploaded"


async def test_a_link_that_was_changed_or_is_too_old_is_refused(
    http: httpx.AsyncClient, issuer: TokenIssuer, new_account: NewAccount, invoicing: Any
) -> None:
    me = issuer.of_account(await new_account())
    declared = body(await http.post("/v1/attachments", json=a_file(b"We agree."), headers=me))
    path = f"/v1/attachments/{declared['id']}/content"

    changed = await http.put(declared["url"].replace("expires=", "expires=9"), content=b"")
    other_method = await http.get(declared["url"])
    old = invoicing.runtime.own["links"].make("PUT", path, seconds=-1)
    late = await http.put(old, content=b"We agree.")
    odd = await http.put(f"{path}?expires=9&signature=%C3%BC", content=b"We agree.")

    assert odd.status_code == 403
    assert {changed.status_code, other_method.status_code, late.status_code} == {403}
    assert "expired" in late.json()["detail"]
