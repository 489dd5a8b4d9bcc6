"""What our mails say. Plain text; links and tokens stand on lines of their own."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from services.auth.domain.mail import Template

_SIGN_UP = (
    "Confirm your address",
    (
        "Somebody, probably you, signed up with this address.\n\n"
        "Confirm it within two days, with the password that you signed up with:\n\n{link}\n\n"
        "Token: {token}\n\n"
        "If it was not you, do nothing: without this nobody can use the address. Or choose a "
        "password of your own there: then what somebody else entered is gone."
    ),
)

_TEXTS: dict[Template, tuple[str, str]] = {
    Template.VERIFY_EMAIL: _SIGN_UP,
    Template.SIGN_UP: _SIGN_UP,
    Template.ACCOUNT_EXISTS: (
        "You have an account already",
        (
            "Somebody, probably you, signed up with this address, which has an account.\n\n"
            "Nothing has changed: log in as before. If you do not know the password any more, "
            "choose a new one with “forgot password”.\n\nIf it was not you, do nothing."
        ),
    ),
    Template.RESET_PASSWORD: (
        "Choose a new password",
        (
            "Somebody, probably you, asked for a new password.\n\nChoose one within 30 minutes:\n\n"
            "{link}\n\nToken: {token}\n\nIf it was not you, do nothing: the old one stays."
        ),
    ),
    Template.PASSWORD_CHANGED: (
        "Your password was changed",
        (
            "Your password was changed, and every device was logged out.\n\n"
            "If it was not you, choose a new one at once with “forgot password”."
        ),
    ),
    Template.SECOND_FACTOR_CHANGED: (
        "Your second factor was turned {state}",
        (
            "The second factor of your log-in was turned {state}.\n\n"
            "If it was not you, choose a new password at once and tell support."
        ),
    ),
    Template.CHANGE_EMAIL: (
        "Confirm your new address",
        (
            "Confirm that this is your new address within two days:\n\n{link}\n\nToken: {token}\n\n"
            "If you did not ask for this, do nothing."
        ),
    ),
    Template.ADDRESS_CHANGED: (
        "Your address was changed",
        (
            "You log in with another address from now on.\n\n"
            "If it was not you, tell support at once."
        ),
    ),
    Template.INVITATION: (
        "You are invited to an account on Perennial",
        (
            "You are invited to join {account} as {role}.\n\nAccept within seven days:\n\n{link}"
            "\n\nToken: {token}\n\nIf you do not know who invites you, do nothing."
        ),
    ),
    Template.INVOICE_PAID: (
        "Receipt for invoice {number}",
        "Thank you, {total} is paid.\n\nInvoice {number}:\n\n{link}",
    ),
    Template.PAYMENT_FAILED: (
        "A payment over {amount} did not work",
        "We could not collect {amount}.\n\n{next_step}\n\nThe invoice:\n\n{link}",
    ),
    Template.CARD_NEEDED: (
        "Please add another card",
        (
            "Your card was declined and cannot be used any more, so {amount} is still open.\n\n"
            "Add another way to pay; it is then tried at once.\n\nThe invoice:\n\n{link}"
        ),
    ),
    Template.CARD_EXPIRES: (
        "Your card expires at the end of {month}",
        (
            "The card that your invoices are charged to expires at the end of {month}.\n\n"
            "Add another way to pay, so that the next invoice is paid without a break.\n\n"
            "The card:\n\n{link}"
        ),
    ),
    Template.PAYMENT_ACTION_REQUIRED: (
        "Confirm a payment over {amount} with your bank",
        "Your bank wants you to confirm it.\n\nThe payment:\n\n{link}",
    ),
    Template.DUNNING_EXHAUSTED: (
        "We could not collect your payment",
        (
            "We tried several times and could not collect what is owed on your invoice.\n\n"
            "{next_step}\n\nThe invoice:\n\n{link}"
        ),
    ),
    Template.TRIAL_WILL_END: (
        "Your trial ends on {day}",
        (
            "Your trial ends on {day}. Add a way to pay to go on without a break.\n\n"
            "The subscription:\n\n{link}"
        ),
    ),
    Template.SUBSCRIPTION_CANCELED: (
        "Your subscription to {plan} has ended",
        "Your subscription to {plan} ended on {day}.\n\nThe subscription:\n\n{link}",
    ),
    Template.CREDIT_NOTE_ISSUED: (
        "Credit note {number}",
        "We issued credit note {number} over {total}.\n\nThe invoice that it corrects:\n\n{link}",
    ),
}

#: Where a mail's link leads, below the public URL.
_PATHS: dict[Template, str] = {
    Template.VERIFY_EMAIL: "verify-email?token={token}",
    Template.SIGN_UP: "verify-email?token={token}",
    Template.RESET_PASSWORD: "reset-password?token={token}",
    Template.CHANGE_EMAIL: "confirm-email?token={token}",
    Template.INVITATION: "accept-invitation?token={token}",
    Template.INVOICE_PAID: "v1/invoices/{invoice_id}",
    Template.PAYMENT_FAILED: "v1/invoices/{invoice_id}",
    Template.CARD_NEEDED: "v1/invoices/{invoice_id}",
    Template.CARD_EXPIRES: "v1/payment-methods/{payment_method_id}",
    Template.DUNNING_EXHAUSTED: "v1/invoices/{invoice_id}",
    Template.CREDIT_NOTE_ISSUED: "v1/invoices/{invoice_id}",
    Template.PAYMENT_ACTION_REQUIRED: "v1/payments/{payment_id}",
    Template.TRIAL_WILL_END: "v1/subscriptions/{subscription_id}",
    Template.SUBSCRIPTION_CANCELED: "v1/subscriptions/{subscription_id}",
}


def write(
    template: Template, facts: Mapping[str, Any], *, greeting: str | None, public_url: str
) -> tuple[str, str]:
    """Subject and text."""
    subject, body = _TEXTS[template]
    path = _PATHS.get(template, "").format(
        **{name: quote(str(value), safe="") for name, value in facts.items()}
    )
    known = {**facts, "link": f"{public_url.rstrip('/')}/{path}"}
    hello = f"Hello {greeting},\n\n" if greeting else "Hello,\n\n"
    # A line break in a name must not become a header of its own.
    one_line = " ".join(subject.format(**known).split())
    return one_line, f"{hello}{body.format(**known)}\n\nPerennial\n"
