"""Decides about a payload. Does not depend on WebAssembly, so neither do the tests."""

import itertools
import json
import re
from dataclasses import dataclass
from typing import NoReturn

AMOUNT_MAX = 500
"""The largest amount that is accepted."""

AMOUNTS = range(2**63)
"""The valid amounts: the non-negative integers of 64 bits with a sign."""

CUSTOMER_BYTES_MAX = 1000
"""Longest name of a customer, in bytes. The host limits the size of values and outputs."""

DEPTH_MAX = 128
"""Deepest nesting of arrays and objects. The parser is recursive, and the stack is small."""


@dataclass
class Accepted:
    line: str
    """The line to print."""
    record: str
    """The record to store, as JSON text."""


@dataclass
class Rejected:
    line: str
    """The line to print."""
    reason: str
    """The reason for people."""


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
    """The deepest nesting of brackets outside strings."""
    without_escapes = re.sub(r"\\.", "", payload, flags=re.DOTALL)
    outside_strings = "".join(without_escapes.split('"')[::2])
    brackets = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", outside_strings))
    return max(itertools.accumulate(brackets), default=0)


def refuse(constant: str) -> NoReturn:
    """Refuses NaN and the infinities, which Python reads although JSON does not have them."""
    raise ValueError(constant)


def is_name(text: str) -> bool:
    """Whether the text is short enough and valid UTF-8: JSON can hold half a surrogate pair, which Python keeps."""
    try:
        return len(text.encode()) <= CUSTOMER_BYTES_MAX
    except UnicodeEncodeError:
        return False
