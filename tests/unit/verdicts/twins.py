"""Random answers and wrong twins of them: the point moved, a digit, the unit, the order or the clock changed.

`DRIFT_TWINS=10000 python -m pytest tests/unit/verdicts/test_twins.py` draws as many as the promise says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

UNITS = (
    "cm",
    "m",
    "km",
    "kg",
    "g",
    "s",
    "min",
    "h",
    "°C",
    "MHz",
    "kHz",
    "V",
    "L",
    "mL",
    "m^2",
    "km/h",
    "m/s",
    "$",
    "€",
    "%",
)

Twin = tuple[str, str, str]
"""A right answer, the same written in another way, and a wrong one."""


def decimal(random_: random.Random) -> Twin:
    """A decimal; wrong: without its point, the point moved, or a digit changed."""
    digits = random_.choice("123456789") + "".join(random_.choice("0123456789") for _ in range(random_.randint(1, 5)))
    places = random_.randint(1, len(digits))
    right = Decimal(int(digits)).scaleb(-places)
    moved = Decimal(int(digits)).scaleb(-places + random_.choice([-2, -1, 1, 2]))
    place = random_.randrange(len(digits))
    changed = (
        digits[:place] + random_.choice([one for one in "123456789" if one != digits[place]]) + digits[place + 1 :]
    )
    wrong = random_.choice([Decimal(int(digits)), moved, Decimal(int(changed)).scaleb(-places), -right])
    return f"{right:f}", f"{right:f}0", f"{wrong:f}"


def unit(random_: random.Random) -> Twin:
    """A number with its unit; wrong: the unit changed, or the number."""
    value = random_.randint(2, 999)
    first, second = random_.sample(UNITS, 2)
    wrong = _of(value, second) if random_.random() < 0.7 else _of(value * 10, first)
    return _of(value, first), _of(value, first, space=""), wrong


def _of(value: int, unit_: str, space: str = " ") -> str:
    return f"{unit_}{value}" if unit_ in "$€" else f"{value}{'' if unit_ == '%' else space}{unit_}"


def time(random_: random.Random) -> Twin:
    """A time of day; wrong: other minutes, another hour, the other half of the day, the same ratio."""
    hour, minute = random_.randint(1, 12), random_.randint(0, 59)
    half = random_.choice(["am", "pm"])
    wrong = random_.choice(
        [
            f"{hour}:{(minute + random_.randint(1, 58)) % 60:02} {half}",
            f"{hour % 12 + 1}:{minute:02} {half}",
            f"{hour}:{minute:02} {'pm' if half == 'am' else 'am'}",
            f"{hour}.{minute:02}",
        ]
    )
    return f"{hour}:{minute:02} {half}", f"{hour:02}:{minute:02} {half.upper()}", wrong


def ratio_of_time(random_: random.Random) -> Twin:
    """A time without its half of the day; wrong: the times that are the same fraction."""
    hour, minute = random_.randint(1, 4), random_.randint(10, 19)
    factor = random_.randint(2, 3)
    return f"{hour}:{minute}", f"0{hour}:{minute}", f"{hour * factor}:{minute * factor:02}"


def list_(random_: random.Random) -> Twin:
    """A list with an order; wrong: two parts changed places, or one part changed."""
    parts = [random_.randint(0, 99) for _ in range(random_.randint(3, 6))]
    opening, closing = random_.choice(["()", "[]", ("", "")])
    places = random_.sample(range(len(parts)), 2)
    other = list(parts)
    if random_.random() < 0.6 and parts[places[0]] != parts[places[1]]:
        other[places[0]], other[places[1]] = parts[places[1]], parts[places[0]]
    else:
        other[places[0]] += random_.choice([1, 10, 100])
    return tuple(
        f"{opening}{joint.join(map(str, one))}{closing}"
        for one, joint in ((parts, ", "), (parts, " , "), (other, ", "))
    )  # type: ignore[return-value]


KINDS: dict[str, Callable[[random.Random], Twin]] = {
    "decimals": decimal,
    "units": unit,
    "times": time,
    "times that are one fraction": ratio_of_time,
    "lists": list_,
}
