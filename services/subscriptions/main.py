"""Wires subscriptions: the only place that knows all of it."""

from services.subscriptions.api import routers
from services.subscriptions.consumers import consumers
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.schedule import schedule
from services.subscriptions.settings import SubscriptionsSettings
from services.subscriptions.tables import metadata
from shared.service import Service

service = Service(
    name="subscriptions",
    description="What is sold and who holds it: catalog, subscriptions, usage and test clocks.",
    settings=SubscriptionsSettings,
    metadata=metadata,
    unit_of_work=SubscriptionsUnitOfWork,
    routers=routers,
    consumers=consumers,
    schedule=schedule,
)
