"""The cost of a key-value operation and of a conflict: the difference between sagas that differ only in that.

The cost of a conflict is that of the repeated attempt, and that of commits and syncs that sagas cannot share since one
waits for the other.
"""

from dataclasses import dataclass

OPERATIONS = 40  # in each of the two branches: enough to be measurable
CONFLICTS_MIN = 0.2  # per saga: fewer are not measurable


@dataclass
class Cost:
    """Per saga: CPU microseconds of the host, and attempts that were repeated after a conflict."""

    cpu_us: float
    conflicts: float


def show(costs, connections):
    """Prints `costs`, which are by case and connections. Skips cases that were not measured."""
    for number in connections:
        without, with_them = costs.get(("i", number)), costs.get(("j", number))
        if without and with_them:
            each = (with_them.cpu_us - without.cpu_us) / (2 * OPERATIONS)
            say("a key-value operation", number, f"{each:.2f} us of CPU; half of them are reads, half writes (j - i)")
    for number in connections:
        apart, same = costs.get(("k", number)), costs.get(("l", number))
        if apart and same:
            conflicts = same.conflicts - apart.conflicts
            # With few conflicts the difference is noise.
            each = f"{(same.cpu_us - apart.cpu_us) / conflicts:.0f} us of CPU" if conflicts >= CONFLICTS_MIN else "-"
            say("a conflict", number, f"{each}; {same.conflicts:.2f} a saga where all want one key (l - k)")
    for number in connections:
        if quick := costs.get(("g", number)):
            say("conflicts of quick transfers", number, f"{quick.conflicts:.3f} a saga, always the same two accounts (g)")


def say(what, connections, text):
    print(f"  {what:<32}{connections:>12}   {text}", flush=True)
