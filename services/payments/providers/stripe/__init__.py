"""Stripe as a provider, by its SDK. Imported only where it is in use: it costs 30 MB."""

from services.payments.providers.stripe.provider import StripeProvider, StripeSettings


def create() -> StripeProvider:
    """The plug-in's entry point."""
    return StripeProvider(StripeSettings())


__all__ = ["StripeProvider", "StripeSettings", "create"]
