"""What a key-value operation and a conflict cost: differences between sagas that differ in nothing else.

The cost of a conflict is what making the attempt again takes, and what sagas lose that can no longer share commits and
syncs, since one waits for the other.
"""

from dataclasses import dataclass

OPERATIONS = 40  # of each of the two branches: enough to stand out of the noise
CONFLICTS_MIN = 0.2  # a saga, for their cost to stand out


@dataclass
class Cost:
    """Of one saga: CPU microseconds of the host, and attempts made again since their data had changed."""

    cpu_us: float
    conflicts: float


def show(costs, connections):
    """`costs` by case and connections. Says nothing of cases that were not measured."""
    for number in connections:
        without, with_them = costs.get(("i", number)), costs.get(("j", number))
        if without and with_them:
            each = (with_them.cpu_us - without.cpu_us) / (2 * OPERATIONS)
            say("a key-value operation", number, f"{each:.2f} us of CPU; half of them are reads, half writes (j - i)")
    for number in connections:
        apart, same = costs.get(("k", number)), costs.get(("l", number))
        if apart and same:
            conflicts = same.conflicts - apart.conflicts
            # Of few, the difference is noise.
            each = f"{(same.cpu_us - apart.cpu_us) / conflicts:.0f} us of CPU" if conflicts >= CONFLICTS_MIN else "-"
            say("a conflict", number, f"{each}; {same.conflicts:.2f} a saga where all want one key (l - k)")
    for number in connections:
        if quick := costs.get(("g", number)):
            say("conflicts of quick transfers", number, f"{quick.conflicts:.3f} a saga, always the same two accounts (g)")


def say(what, connections, text):
    print(f"  {what:<32}{connections:>12}   {text}", flush=True)
