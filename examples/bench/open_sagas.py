"""The memory, the disk space and the restart time of a host with very many waiting sagas."""

import contextlib
import json
import random
import signal
import time
from pathlib import Path

from processes import Failure, http, load, saga_status

CONNECTIONS = 64
SETTLE_SECONDS_MAX = 300
SAMPLE = 100


def run(host, peer, data, wanted):
    """Opens at least `wanted` sagas whose first branch is called again after an hour, and measures."""
    print(f"\nopen sagas: first branch answers 425 ONGOING, next attempt in an hour; {CONNECTIONS} connections submit")
    submit(host, peer, 1, "warm-up-")
    rss_before, disk_before = host.rss_bytes(), disk_bytes(data)
    calls_before = calls(peer)
    gids, accepted, begun = [], 0, time.monotonic()
    while accepted < wanted:
        prefix = f"open-{len(gids)}-"
        answered = submit(host, peer, 1, prefix)
        # The last ones may have got no response; the first half has.
        gids.append((prefix, answered // 2))
        accepted += answered
    seconds = time.monotonic() - begun
    opened = settle(peer) - calls_before
    sample = [f"{prefix}{random.randint(1, last):010d}" for prefix, last in random.choices(gids, k=SAMPLE)]
    check(host, sample)
    rss, disk = host.rss_bytes(), disk_bytes(data)
    say("submitted", f"{opened:,} sagas, {accepted / seconds:,.0f} a second, each on disk before it was answered")
    say("memory", f"{(rss - rss_before) / opened:,.0f} bytes a saga (RSS {mib(rss_before)} -> {mib(rss)})")
    say("disk", f"{(disk - disk_before) / opened:,.0f} bytes a saga ({mib(disk)} in all)")
    for how in (signal.SIGTERM, signal.SIGKILL):
        stopped, begun = host.stop(how), time.monotonic()
        ready = host.start()
        check(host, sample[:1])
        queried = time.monotonic() - begun
        check(host, sample)
        rss, again = host.rss_bytes(), calls(peer) - calls_before - opened
        say(
            how.name,
            f"ended in {stopped:.2f} s; ready {ready:.2f} s after the start (first ping), first query answered at "
            f"{queried:.2f} s; RSS {mib(rss)}, {mib(disk_bytes(data))} on disk, {again:,} branches called again",
        )


def submit(host, peer, seconds, prefix):
    """Submits sagas for `seconds` and returns the number of accepted ones."""
    step = {"action": peer.url + "/busy", "compensate": peer.url + "/succeed"}
    body = {
        "gid": "GID",
        "trans_type": "saga",
        "steps": [step, step],
        "payloads": ['{"amount":100}', '{"amount":100}'],
        "retry_interval": 3600,
    }
    saw = load(host.url + "/api/dtmsvr/submit", json.dumps(body), prefix, CONNECTIONS, seconds)
    if saw.failed:
        raise Failure(f"{saw.failed} of {saw.requests} submissions failed:\n{host.last_words()}")
    return saw.requests


def settle(peer):
    """Waits until all first attempts have ended, and returns their number."""
    deadline, last = time.monotonic() + SETTLE_SECONDS_MAX, -1
    while (now := calls(peer)) != last:
        if time.monotonic() > deadline:
            raise Failure("the first attempts do not end")
        last = now
        time.sleep(2)
    return now


def calls(peer):
    return int(http(peer.url + "/busy/calls")[1])


def check(host, gids):
    """Checks that the sagas are stored and unfinished."""
    for gid in gids:
        if (status := saga_status(host, gid)) != "submitted":
            raise Failure(f"saga {gid} was accepted and should be open, but it is {status}")


def disk_bytes(data):
    """The disk space of a folder. Files that are deleted meanwhile do not count."""
    size = 0
    for file in Path(data).rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_blocks * 512
    return size


def mib(size):
    return f"{size / 2**20:,.0f} MiB"


def say(what, text):
    print(f"  {what:<10} {text}", flush=True)
