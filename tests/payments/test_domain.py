"""The rules of payments, without any server."""

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payments.domain import ledger
from services.payments.domain.dunning import Dunning, is_over, next_retry
from services.payments.domain.ledger import EntryKind, Leg, Posting
from services.payments.domain.payments import (
    ASK_AFTER,
    MOVES,
    IllegalPaymentMove,
    Payment,
    PaymentNotRefundable,
    PaymentStatus,
    RefundAboveCharge,
    ask_again_at,
)
from services.payments.domain.refunds import Refund, RefundReason
from shared.events.payments import PaymentArrivedLate, PaymentSucceeded
from shared.ids import new_id
from shared.money import Money
from tests.payments.factories import NOW, a_payment, an_attempt


def a_paid_payment(amount: int = 1999) -> Payment:
    payment = a_payment(amount=amount)
    payment.begin()
    payment.succeed(at=NOW, provider="sandbox")
    return payment


def test_every_state_but_the_final_ones_leads_somewhere() -> None:
    final = {status for status, targets in MOVES.items() if not targets}

    assert final == {PaymentStatus.SUCCEEDED, PaymentStatus.CANCELED}
    assert set(MOVES) == set(PaymentStatus)


def test_events_of_a_payment_are_numbered_without_a_gap() -> None:
    payment = a_payment()
    created = payment.create(at=NOW)
    payment.begin()
    failed = payment.fail(at=NOW, decline_class="retry_later", decline_code="x", retries_at=None)
    payment.begin()
    paid = payment.succeed(at=NOW, provider="sandbox")

    assert [created.sequence, failed.sequence, paid.sequence] == [1, 2, 3]
    assert isinstance(paid, PaymentSucceeded)
    assert paid.attempts == 2


def test_a_payment_that_succeeded_cannot_be_charged_again() -> None:
    payment = a_paid_payment()

    with pytest.raises(IllegalPaymentMove):
        payment.begin()
    with pytest.raises(IllegalPaymentMove):
        payment.succeed(at=NOW, provider="sandbox")


def test_no_second_attempt_begins_out_of_an_unknown_one() -> None:
    payment = a_payment()
    payment.begin()
    payment.lose_sight()

    with pytest.raises(IllegalPaymentMove):
        payment.begin()


def test_a_success_after_a_cancellation_is_reported_as_late() -> None:
    payment = a_payment()
    payment.begin()

    assert payment.cancel(at=NOW) is None
    assert isinstance(payment.succeed(at=NOW, provider="sandbox"), PaymentArrivedLate)


def test_retries_follow_the_days_after_the_last_try() -> None:
    payment = a_payment(dunning_days=[1, 3, 5, 7])
    at, tries = NOW, []
    while (due := next_retry(payment, decline_class="retry_later", at=at)) is not None:
        payment.retries += 1
        tries.append((due - at).days)
        at = due

    assert tries == [1, 3, 5, 7]
    assert at == NOW + timedelta(days=16)


@pytest.mark.parametrize("decline_class", ["new_card", "stop"])
def test_a_bad_card_and_fraud_are_not_retried_by_themselves(decline_class: str) -> None:
    assert next_retry(a_payment(), decline_class=decline_class, at=NOW) is None


def test_a_first_payment_is_not_dunned() -> None:
    payment = a_payment(billing_reason="subscription_start")

    assert not payment.is_dunned
    assert next_retry(payment, decline_class="retry_later", at=NOW) is None


def test_fraud_ends_the_dunning_at_once_and_a_bad_card_waits_for_a_new_one() -> None:
    dunning = Dunning.of(a_payment(dunning_days=[1, 3]), at=NOW)

    assert is_over(decline_class="stop", retries_at=None)
    assert not is_over(decline_class="new_card", retries_at=None)
    assert is_over(decline_class="retry_later", retries_at=None)
    assert dunning.ends_at == NOW + timedelta(days=4)


def test_a_lost_answer_is_asked_about_often_then_rarely_and_then_left_to_a_person() -> None:
    attempt = an_attempt(a_payment())
    attempt.id = UUID(int=0)  # the first of all that are asked about
    waits = []
    while attempt.postpone(real_now=NOW):
        assert attempt.ask_at is not None
        waits.append(attempt.ask_at - NOW)

    assert waits == list(ASK_AFTER)
    seconds = [wait.total_seconds() for wait in waits]
    assert seconds == [5, 15, *8 * [30], 120, 600, 3600, 21600, 86400]
    assert attempt.ask_at is None


@given(st.uuids(), st.integers(0, len(ASK_AFTER) - 1))
def test_questions_after_an_outage_are_spread_and_never_early(about: UUID, asked: int) -> None:
    waited = ask_again_at(about, asked, NOW) - NOW

    assert ASK_AFTER[asked] <= waited <= 1.1 * ASK_AFTER[asked]
    assert ask_again_at(about, asked, NOW) == NOW + waited
    assert ask_again_at(UUID(int=about.int ^ 1), asked, NOW) != NOW + waited


def test_a_hint_does_not_disturb_the_owner_before_the_deadline() -> None:
    attempt = an_attempt(a_payment())
    attempt.hint(real_now=NOW)
    assert attempt.ask_at == attempt.deadline

    attempt.hint(real_now=attempt.deadline)
    assert attempt.ask_at == attempt.deadline

    attempt.postpone(real_now=NOW)
    attempt.hint(real_now=NOW)
    assert attempt.ask_at == NOW


@given(st.integers(1, 10**9), st.lists(st.integers(1, 10**9), max_size=20))
def test_refunds_never_add_up_to_more_than_the_charge(amount: int, asked: list[int]) -> None:
    payment = a_paid_payment(amount)
    for part in asked:
        try:
            payment.reserve_refund(part)
        except RefundAboveCharge:
            assert payment.refunded + part > amount
        assert 0 <= payment.refunded <= amount


def test_only_money_that_was_taken_goes_back() -> None:
    with pytest.raises(PaymentNotRefundable):
        Refund.of(
            a_payment(),
            charge="ch",
            amount=1,
            reason=RefundReason.REQUESTED,
            at=NOW,
            real_now=NOW,
        )


def test_a_posting_that_does_not_sum_to_zero_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="sum to zero"):
        Posting(EntryKind.CHARGE, "x", "EUR", (Leg("a", 1),))


@given(st.integers(1, 10**12), st.integers(0, 10**6))
def test_an_invoice_that_is_paid_leaves_clearing_and_receivable_at_zero(
    amount: int, fee: int
) -> None:
    due = Money(amount, "EUR")
    fee = min(fee, amount)
    invoice_id = new_id()
    legs = [
        leg
        for posting in (
            ledger.invoice_owed(invoice_id, due),
            ledger.charge(new_id(), "sandbox", due, fee),
            ledger.invoice_paid(invoice_id, due),
            ledger.dispute_opened(new_id(), "sandbox", due, fee),
            ledger.dispute_won(new_id(), "sandbox", due),
            ledger.refund(new_id(), "sandbox", due),
        )
        for leg in posting.legs
    ]
    balance = {leg.account: 0 for leg in legs}
    for leg in legs:
        balance[leg.account] += leg.amount

    assert balance[ledger.CLEARING] == balance[ledger.RECEIVABLE] == 0
    assert balance[ledger.DISPUTED] == 0
    assert balance[ledger.held_by("sandbox")] == -2 * fee
    assert sum(balance.values()) == 0
