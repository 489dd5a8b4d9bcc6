"""Edge: time."""

from shared.schedule import Schedule

schedule = Schedule()
