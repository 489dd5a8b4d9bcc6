"""Stories: what an account and those around it do, drawn from a seed.

Every act stands by itself: it names what it is about by a number that is taken from whatever is
there then, so that a story without some of its acts is a story too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.billing.catalog import CATALOGS

ZONES = ("UTC", "UTC", "Europe/Berlin", "America/New_York")
COUNTRIES = ("DE", "DE", "FR", "AT", "US")


@dataclass(frozen=True)
class Act:
    """After `wait` hours somebody does `what`."""

    wait: float
    what: str
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        how = ", ".join(f"{name}={value!r}" for name, value in self.how.items())
        return f"+{self.wait:g}h {self.what}({how})"


@dataclass(frozen=True)
class Story:
    seed: int
    begins: datetime
    country: str
    zone: str
    catalog: int
    acts: tuple[Act, ...]
    #: How its subscriptions are invoiced: at once, one invoice a day for all, or drafts first.
    invoicing: str = "at once"

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.begins:%Y-%m-%d %H:%M}, {self.country}, {self.zone}, "
        lines = [f"{head}catalog {self.catalog}, {self.invoicing}", *map(str, self.acts)]
        return "\n  ".join(lines)

    def without(self, dropped: set[int]) -> "Story":
        """The same story without some acts; time passes as before."""
        kept: list[Act] = []
        owed = 0.0
        for position, act in enumerate(self.acts):
            owed += act.wait
            if position not in dropped:
                kept.append(Act(owed, act.what, act.how))
                owed = 0.0
        return replace(self, acts=tuple(kept))


#: How often each act, or scene of several, comes beside the others.
WEIGHTS = {
    "start": 3,
    "change": 12,
    "cancel": 2,
    "credit_note": 3,
    "refund": 2,
    "vat_number": 2,
    "move": 1,
    "grant": 1,
    "put_coupon": 2,
    "take_coupon_off": 1,
    "trial": 1,
    "wait": 2,
    "scene of waiting": 5,
    "scene of trouble": 9,
    "scene of an answer": 3,
    "scene of usage": 6,
    "scene of a change once paid": 4,
    "scene of rest": 4,
    "scene of a dispute": 4,
    "scene of second thoughts": 6,
}


def tell(seed: int, *, acts: int | None = None, only: set[str] | None = None) -> Story:
    """The story of a seed."""
    rng = Random(seed)  # noqa: S311  (chance that is repeatable)
    begins = datetime(2020, 2, 15, tzinfo=UTC) + timedelta(
        days=rng.randrange(170), hours=rng.choice([0, 9, 23]), minutes=rng.choice([0, 30, 59])
    )
    if rng.random() < 0.25:  # where months are too short for the day
        begins = begins.replace(month=rng.choice([3, 5, 7]), day=31)
    names = [name for name in WEIGHTS if only is None or name in only]
    weights = [WEIGHTS[name] for name in names]
    number = acts or rng.randint(12, 30)
    told = [_act("start", rng, wait=24.0 * rng.randrange(3)) for _ in range(rng.randint(1, 3))]
    while len(told) < number:
        what = rng.choices(names, weights)[0]
        if what in SCENES:
            told += SCENES[what](rng)
        else:
            told.append(_act(what, rng))
    if rng.random() < 0.2:
        told.append(Act(_hours(rng), "close"))
    return Story(
        seed=seed,
        begins=begins,
        country=rng.choice(COUNTRIES),
        zone=rng.choice(ZONES),
        catalog=seed % CATALOGS,
        acts=tuple(told),
        invoicing=rng.choice([*["at once"] * 5, "consolidated", "drafts"]),
    )


#: Acts in which no money is in doubt: what is billed late is then paid at once as well.
CALM = {
    *("start", "change", "withdraw_change", "cancel", "uncancel", "pause", "resume", "use"),
    *(
        "void_usage",
        "move",
        "grant",
        "put_coupon",
        "take_coupon_off",
        "trial",
        "vat_number",
        "wait",
    ),
    "close",
}


def calm(story: Story) -> Story:
    """The story without trouble, and with nothing that takes back what was billed meanwhile."""
    acts = []
    for act in story.acts:
        how = {name: value for name, value in act.how.items() if name not in {"days", "once_paid"}}
        if act.what == "cancel" and how["when"] == "date":
            how["when"] = "end"
        acts.append(Act(act.wait, act.what if act.what in CALM else "wait", how))
        if act.what not in CALM:
            acts[-1] = Act(act.wait, "wait")
        elif act.what in {"pause", "trial"}:
            acts[-1] = act
    return replace(story, acts=tuple(acts), invoicing="at once")


def _hours(rng: Random) -> float:
    """Hours: often nothing or days, now and then a period or more."""
    return rng.choice(
        [
            0.0,
            float(rng.randint(1, 30)),
            24.0 * rng.randint(1, 20) + rng.random(),
            24.0 * rng.randint(5, 30),
            24.0 * rng.randint(15, 35),
        ]
    )


def _start(rng: Random) -> dict[str, Any]:
    return {
        "plan": rng.choice(["basic", "basic", "pro", "seats", "calls", "hybrid"]),
        "price": rng.randrange(2),
        "quantity": rng.choice([1, 1, 2, 3, 5]),
        "addons": _addons(rng),
        "coupon": rng.choice([None, None, "half", "third", "once", "nine", "basics"]),
        "trial": rng.choice([None, None, None, 7, 30]),
        "calendar": rng.random() < 0.15,
        **_begins(rng),
    }


def _begins(rng: Random) -> dict[str, Any]:
    """Mostly now; else in the past, or as it went on elsewhere."""
    chance = rng.random()
    if chance < 0.08:
        return {"ago": 40}
    return {"ago": 20, "imported": True} if chance < 0.15 else {}


def _addons(rng: Random) -> dict[str, int]:
    return rng.choice(
        [{}, {}, {"support": 1}, {"support": 2}, {"setup": 1}, {"setup": 2, "support": 1}]
    )


def _change(rng: Random) -> dict[str, Any]:
    kind = rng.choice(["price", "price", "quantity", "addons", "both"])
    how: dict[str, Any] = {"of": rng.randrange(6)}
    if kind in {"price", "both"}:
        how["plan"] = rng.choice(["basic", "pro", "seats", "calls", "hybrid"])
        how["price"] = rng.randrange(2)
    if kind in {"quantity", "both"}:
        how["quantity"] = rng.randint(1, 6)
    if kind == "addons":
        how["addons"] = _addons(rng)
    how["proration"] = rng.choice(
        [None, None, "prorate_now", "prorate_now", "prorate_next", "none", "at_period_end"]
    )
    if rng.random() < 0.12:
        how["days"] = rng.randint(1, 50)
    elif rng.random() < 0.12:
        how["once_paid"] = True
    return how


def _of_one(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(6)}


def _cancel(rng: Random) -> dict[str, Any]:
    when = rng.choice(["now", "now", "end", "date"])
    how: dict[str, Any] = {"of": rng.randrange(6), "when": when, "credit": rng.random() < 0.6}
    how["refund"] = how["credit"] and rng.random() < 0.3
    if when == "date":
        how["days"] = rng.randint(1, 60)
    return how


def _coupon(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(6), "coupon": rng.choice(["half", "third", "nine", "basics"])}


def _trial(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(6), "days": rng.choice([0, 0, 5, 40])}


def _pause(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(6), "days": rng.choice([None, 45, 80, 120])}


def _card(rng: Random) -> dict[str, Any]:
    return {"card": rng.choice(["pays", "pays", "pays", "declines", "declines", "waits", "stops"])}


def _of_many(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(20)}


def _answer(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(9), "paid": rng.random() < 0.7}


def _credit_note(rng: Random) -> dict[str, Any]:
    return {
        "of": rng.randrange(20),
        "share": rng.choice([None, 0.1, 0.33, 0.5, 1.0]),
        "line": rng.choice([None, None, 0, 1]),
        "settle": rng.choice(["credit", "refund"]),
    }


def _refund(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(20), "share": rng.choice([0.1, 0.5, 1.0])}


def _dispute(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(20), "share": rng.choice([0.4, 1.0])}


def _decide(rng: Random) -> dict[str, Any]:
    return {"of": rng.randrange(4), "won": rng.random() < 0.5}


def _vat_number(rng: Random) -> dict[str, Any]:
    return {"is_set": rng.random() < 0.5}


def _use(rng: Random) -> dict[str, Any]:
    return {
        "of": rng.randrange(6),
        "value": rng.choice(["1", "2.5", "7", "40"]),
        "ago": rng.choice([0.0, 0.0, 1.0, 30.0, 70.0, 200.0]),
    }


def _move(rng: Random) -> dict[str, Any]:
    plan = ["basic", "pro", "seats"]
    return {"plan": rng.choice(plan), "price": rng.randrange(2), "to": rng.choice(plan)}


def _grant(rng: Random) -> dict[str, Any]:
    return {"amount": rng.choice([100, 1234])}


#: How each act is drawn.
HOW: dict[str, Callable[[Random], dict[str, Any]]] = {
    "start": _start,
    "change": _change,
    "withdraw_change": _of_one,
    "cancel": _cancel,
    "uncancel": _of_one,
    "pause": _pause,
    "resume": _of_one,
    "card": _card,
    "pay": _of_many,
    "answer": _answer,
    "credit_note": _credit_note,
    "void": _of_many,
    "reissue": _of_many,
    "refund": _refund,
    "dispute": _dispute,
    "decide": _decide,
    "give_up": _of_many,
    "mark_paid": _of_many,
    "vat_number": _vat_number,
    "use": _use,
    "void_usage": _of_many,
    "move": _move,
    "grant": _grant,
    "put_coupon": _coupon,
    "take_coupon_off": _of_one,
    "trial": _trial,
    "wait": lambda _rng: {},
}


# ---- scenes: acts that mean something together ---------------------------------------------------


def _act(what: str, rng: Random, wait: float | None = None, **how: Any) -> Act:
    """One act, drawn as usual but for what is given."""
    return Act(_hours(rng) if wait is None else wait, what, {**HOW[what](rng), **how})


def _soon(rng: Random) -> float:
    return rng.choice([0.0, 1.0, 24.0 * rng.randint(1, 9)])


def _any(rng: Random) -> Act:
    what = rng.choice(["change", "change", "change", "cancel", "credit_note", "use", "vat_number"])
    return _act(what, rng, _soon(rng))


def _waiting(rng: Random) -> list[Act]:
    """Several things wait for one period's end."""
    of = rng.randrange(6)
    acts = [_act("change", rng, of=of, proration="at_period_end")]
    for what in rng.sample(["change", "change", "move", "pause", "cancel", "withdraw_change"], 2):
        more = {"proration": "at_period_end"} if what == "change" and rng.random() < 0.6 else {}
        acts.append(_act(what, rng, _soon(rng), **({} if what == "move" else {"of": of}), **more))
    return [*acts, _act("wait", rng, 24.0 * rng.randint(20, 35))]


def _trouble(rng: Random) -> list[Act]:
    """What is billed is not paid; somebody does something; then it ends one way or another."""
    of = rng.randrange(6)
    acts = [_act("card", rng, card=rng.choice(["declines", "declines", "stops"]))]
    if rng.random() < 0.5:
        acts.append(_act("change", rng, 0.0, of=of, proration="prorate_now"))
    else:
        acts.append(_act("wait", rng, 24.0 * rng.randint(20, 33)))
    for what in rng.sample(["change", "cancel", "credit_note", "vat_number"], rng.randrange(3)):
        more = {"when": "now", "credit": True} if what == "cancel" else {}
        newest = {"credit_note": {"of": -1}, "vat_number": {}}
        acts.append(_act(what, rng, _soon(rng), **newest.get(what, {"of": of}), **more))
    match rng.randrange(6):
        case 0:
            acts += [_act("card", rng, 0.0, card="pays"), _act("pay", rng, _soon(rng), of=-1)]
        case 1:
            acts += [_act("void", rng, _soon(rng), of=-1), _act("reissue", rng, _soon(rng), of=-1)]
        case 2:
            acts.append(_act("mark_paid", rng, _soon(rng), of=-1))
        case 3:
            acts += [_act("give_up", rng, _soon(rng), of=-1), _any(rng)]
        case 4:
            acts += [_act("wait", rng, 24.0 * rng.randint(10, 60)), _any(rng)]
            acts += [_act("card", rng, 0.0, card="pays"), _act("pay", rng, _soon(rng), of=-1)]
        case _:
            acts.append(_act("wait", rng, 24.0 * rng.randint(5, 40)))
    return [*acts, _act("card", rng, 0.0, card="pays"), _act("pay", rng, 0.0, of=-1)]


def _answered(rng: Random) -> list[Act]:
    """The bank takes its time."""
    return [
        _act("card", rng, card="waits"),
        _act("change", rng, 0.0, proration="prorate_now", once_paid=rng.random() < 0.5),
        *[_any(rng) for _ in range(rng.randrange(2))],
        _act("answer", rng, _soon(rng), of=0),
        _act("card", rng, 0.0, card="pays"),
        _act("answer", rng, _soon(rng), of=0),
    ]


def _usage(rng: Random) -> list[Act]:
    """Something is used, and told late, or corrected."""
    of = rng.randrange(6)
    plan = rng.choice(["calls", "calls", "hybrid"])
    acts = [_act("start", rng, plan=plan, trial=rng.choice([None, None, 7]))]
    acts += [_act("use", rng, of=of) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.5:
        acts.append(_act(rng.choice(["change", "cancel", "pause"]), rng, _soon(rng), of=of))
    acts += [_act("use", rng, _soon(rng), of=of, ago=rng.choice([1.0, 30.0, 70.0]))]
    if rng.random() < 0.5:
        acts.append(_act("void_usage", rng, _soon(rng)))
    return acts


def _asked_first(rng: Random) -> list[Act]:
    """A change that counts once it is paid, and is not paid at once."""
    of = rng.randrange(6)
    acts = [
        _act("card", rng, card=rng.choice(["declines", "waits", "pays"])),
        _act("change", rng, 0.0, of=of, proration="prorate_now", once_paid=True),
    ]
    if rng.random() < 0.4:
        acts.append(_any(rng))
    acts += [
        _act("card", rng, rng.choice([0.0, 5.0, 22.0, 24.0]), card="pays"),
        _act("answer", rng, 0.0, of=0),
        _act("pay", rng, 0.0, of=0),
    ]
    return acts


def _rest(rng: Random) -> list[Act]:
    """It pauses, and somebody does something before it is awake again."""
    of = rng.randrange(6)
    acts = [_act("pause", rng, of=of), _act("wait", rng, 24.0 * rng.randint(10, 40))]
    if rng.random() < 0.4:
        acts.append(_any(rng))
    return [*acts, _act("resume", rng, 24.0 * rng.randint(0, 40), of=of)]


def _disputed(rng: Random) -> list[Act]:
    return [
        _act("dispute", rng, of=-1),
        *[_any(rng) for _ in range(rng.randint(1, 2))],
        _act("decide", rng, _soon(rng)),
    ]


def _second_thoughts(rng: Random) -> list[Act]:
    """One thing, and soon after it the opposite."""
    of = rng.randrange(6)
    first = [_act("change", rng, of=of), _act("change", rng, _soon(rng), of=of)]
    last = rng.choice(
        [
            _act("cancel", rng, _soon(rng), of=of, when="now", credit=True),
            _act("change", rng, _soon(rng), of=of, proration="prorate_now"),
            _act("credit_note", rng, _soon(rng)),
            _act("uncancel", rng, _soon(rng), of=of),
        ]
    )
    if last.what == "uncancel":
        first.append(_act("cancel", rng, _soon(rng), of=of, when=rng.choice(["end", "date"])))
    return [*first, last]


SCENES: dict[str, Callable[[Random], list[Act]]] = {
    "scene of waiting": _waiting,
    "scene of trouble": _trouble,
    "scene of an answer": _answered,
    "scene of usage": _usage,
    "scene of a change once paid": _asked_first,
    "scene of rest": _rest,
    "scene of a dispute": _disputed,
    "scene of second thoughts": _second_thoughts,
}
