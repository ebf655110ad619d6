"""What the branch answers to a payload. Nothing here knows of WebAssembly, so the tests need none."""

import itertools
import json
import re
from dataclasses import dataclass
from typing import NoReturn

AMOUNT_MAX = 500
"""The largest amount that goes through."""

AMOUNTS = range(2**63)
"""What is an amount at all: the integers of 64 bits that are not negative."""

CUSTOMER_BYTES_MAX = 1000
"""The most bytes of a customer's name: what the host takes as a value and as an output has a limit too."""

DEPTH_MAX = 128
"""Arrays and objects within each other. The parser calls itself for each, and the stack is small."""


@dataclass
class Accepted:
    line: str
    """What to print."""
    record: str
    """What to store, as JSON text."""


@dataclass
class Rejected:
    line: str
    """What to print."""
    reason: str
    """What people are told."""


def decide(payload: str) -> Accepted | Rejected:
    """Decides about a payload such as `{"amount": 100, "customer": "Zoë"}`."""
    request = parse(payload)
    if request is None:
        return Rejected("try: invalid request", "invalid request")
    amount, customer = request
    if amount > AMOUNT_MAX:
        return Rejected(f"try amount={amount}: simulated failure", "simulated failure")
    record = json.dumps({"amount": amount, "customer": customer}, ensure_ascii=False, separators=(",", ":"))
    return Accepted(f"try amount={amount} customer={customer}", record)


def parse(payload: str) -> tuple[int, str] | None:
    """The amount and the customer of a valid payload."""
    if depth(payload) > DEPTH_MAX:
        return None
    try:
        request = json.loads(payload, parse_constant=refuse)
    except ValueError:
        return None
    match request:
        # In Python a bool is an int too.
        case {"amount": int(amount), **rest} if amount in AMOUNTS and not isinstance(amount, bool):
            customer = rest.get("customer", "")
        case _:
            return None
    if not isinstance(customer, str) or not is_name(customer):
        return None
    return amount, customer


def depth(payload: str) -> int:
    """How many brackets are open at once, those in strings aside."""
    without_escapes = re.sub(r"\\.", "", payload, flags=re.DOTALL)
    outside_strings = "".join(without_escapes.split('"')[::2])
    brackets = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", outside_strings))
    return max(itertools.accumulate(brackets), default=0)


def refuse(constant: str) -> NoReturn:
    """For what Python reads beyond JSON: NaN and the infinities."""
    raise ValueError(constant)


def is_name(text: str) -> bool:
    """Whether the text is short enough, and UTF-8 at all: JSON can spell half a surrogate pair, and Python keeps it."""
    try:
        return len(text.encode()) <= CUSTOMER_BYTES_MAX
    except UnicodeEncodeError:
        return False
