"""The payment providers: built-in ones and plug-ins, found by entry point."""

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from services.payments.providers.base import PaymentProvider
from shared.errors import Invalid

GROUP = "perennial.payment_providers"

#: Written as entry points, so that they are loaded the way a stranger's plug-in is: on first use.
BUILT_IN = (
    EntryPoint("sandbox", "services.payments.providers.sandbox:create", GROUP),
    EntryPoint("stripe", "services.payments.providers.stripe:create", GROUP),
)


class ProviderUnknown(Invalid):
    """No plug-in of this name is installed or enabled."""

    code = "provider-unknown"


_open: dict[str, PaymentProvider] = {}


@cache
def installed() -> dict[str, EntryPoint]:
    """Every provider that could be used, by name; a plug-in may replace a built-in one."""
    found = {point.name: point for point in BUILT_IN}
    found.update({point.name: point for point in entry_points(group=GROUP)})
    return found


def provider(name: str) -> PaymentProvider:
    """The provider of this name, made on first use and kept. Raises `ProviderUnknown`."""
    if name not in _open:
        point = installed().get(name)
        if point is None:
            raise ProviderUnknown(
                f"There is no payment provider {name!r}; there is {', '.join(installed())}.",
                field="provider",
            )
        create: Callable[[], PaymentProvider] = point.load()
        _open[name] = create()
    return _open[name]


def use(made: PaymentProvider) -> None:
    """Take this provider under its name from now on (a test's, or one made by hand)."""
    _open[made.name] = made


async def close_providers() -> None:
    """Close every connection, when the process ends."""
    while _open:
        await _open.popitem()[1].close()
