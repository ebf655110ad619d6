"""What a fault costs others: the latency of honest sagas beside it, and the memory that it takes.

Each fault has a host of its own. The honest sagas are of a plugin that has nothing to do with the fault; each client
waits for its saga. They are measured alone first, in the same minute.
"""

import contextlib
import json
import resource
import shutil
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from processes import Failure, Server, http, load

CONNECTIONS = 4
FLOODING = 64
RATIO_MAX = 5  # of the p99 beside a fault to that alone
LISTED_P99_MS_MAX = 100
BUDGET = 256 << 20
PEAK_MAX = 1.2  # of the budget, above what an idle host has
FORM = "{:<44}{:>10}{:>10}{:>10}{:>10}{:>8}{:>10}"
HEAD = ("fault", "p50 alone", "p99 alone", "p50 ms", "p99 ms", "ratio", "accepted")
MEMORY_HEAD = ("fault", "idle MiB", "peak MiB", "after MiB", "at most", "", "accepted")


def run(options, folder, table):
    """Measures all faults. A row that is not as it must be is reported to `table`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the dead service; the host has the usual limit
    plugins = folder / "plugins-faults"
    plugins.mkdir()
    shutil.copy(options.plugins / "account.wasm", plugins)
    for name in ("first", "second"):
        shutil.copy(options.fixtures / "chaos.wasm", plugins / f"{name}.wasm")

    def host(name, settings=""):
        (folder / f"{name}.toml").write_text(settings)
        command = ["prlimit", f"--nofile={min(1024, soft)}:{hard}", options.host, "--config", folder / f"{name}.toml"]
        command += ["--data", folder / name, "--plugins", plugins, "--grpc-listen", "off"]
        probe, env = "/api/ping", {"WASAGA_LOG": "warn"}
        return Server("wasaga", lambda at: [*command, "--listen", at], probe, folder / f"{name}.log", env)

    print("\nfaults: honest sagas of 4 connections alone and beside a fault; accepted: of the sagas of the fault", flush=True)
    print(FORM.format(*HEAD), flush=True)
    with Server("bench_peer", lambda at: [options.peer, at], "/busy/calls", folder / "dead.log") as peer:
        for name, title, fault in latency_faults(peer.url + "/never"):
            attempt(table, title, lambda: beside(options, host(f"fault-{name}"), title, fault))
        small = f"[memory]\nbudget_bytes = {BUDGET}\n"
        title = "8 lists of 32 sagas of 4 MB"
        attempt(table, title, lambda: lists(options, host("fault-lists", small), title))
        print(FORM.format(*MEMORY_HEAD), flush=True)
        for name, title, fault in memory_faults(peer.url + "/never"):
            attempt(table, title, lambda: within(host(f"fault-{name}", small), title, fault))


def attempt(table, title, measure):
    try:
        measure()
    except Failure as failure:
        table.fail(f"{title}: {failure}")


def latency_faults(dead):
    """Name, title, and what submits the sagas of the fault and returns the number of those that were accepted."""

    def service(**more):
        return lambda host: flood(host, saga(dead, {}, **more))

    def plugin(host):
        return flood(host, saga("wasm://first/try", {"try": "sleep", "ms": 3000}))

    def waiting(host):
        asleep = {"try": "sleep", "ms": 120_000}
        sagas = [saga(f"wasm://{name}/try", asleep, request_timeout=300) for name in ("first", "second") for _ in range(96)]
        return submit_each(host, sagas, "waiting", FLOODING)

    return [
        ("herd", "a dead service", service()),
        ("bulkhead", "a dead service, request_timeout 30", service(request_timeout=30)),
        ("service", "a dead service, request_timeout 86400", service(request_timeout=86400)),
        ("plugin", "a plugin that sleeps", plugin),
        ("slots", "two plugins that wait, 96 sagas each", waiting),
    ]


def memory_faults(dead):
    def large(host):
        payload = "x" * 1_000_000
        body = saga(dead, {}, request_timeout=60)
        body["steps"] *= 3
        body["payloads"] = [json.dumps(payload)] * 3
        return submit_each(host, [body] * 300, "large", 8)

    return [
        ("large", "300 sagas of 3 MB on a dead service", large),
        ("bodies", "400 unfinished bodies of 4 MB", bodies),
    ]


def saga(url, payload, **more):
    steps = [{"action": url, "compensate": ""}]
    return {"gid": "GID", "trans_type": "saga", "steps": steps, "payloads": [json.dumps(payload)], **more}


def honest(host, name, seconds):
    body = saga("wasm://account/try", {"account": "GID", "open": 1}, wait_result=True)
    return load(host.url + "/api/dtmsvr/submit", json.dumps(body), f"honest-{name}-", CONNECTIONS, seconds)


def flood(host, body):
    """Submits the saga as fast as the host answers, for some seconds."""
    before = host.metric("wasaga_sagas_submitted_total")
    load(host.url + "/api/dtmsvr/submit", json.dumps(body), "flood-", FLOODING, 4)
    return host.metric("wasaga_sagas_submitted_total") - before


def submit_each(host, sagas, name, threads):
    """Submits each saga once, and returns how many were accepted."""

    def submit(number):
        body = {**sagas[number], "gid": f"{name}-{number}"}
        status, text = http(host.url + "/api/dtmsvr/submit", json.dumps(body))
        if status not in (200, 503):
            raise Failure(f"{status} {text}\n{host.last_words()}")
        return status == 200

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(submit, range(len(sagas))))


def beside(options, host, title, fault):
    with host:
        honest(host, "warm-up", 1)
        alone = honest(host, "alone", options.seconds)
        accepted = fault(host)
        saw = honest(host, "beside", options.seconds)
        row(title, alone, saw, accepted)
        unharmed(saw)
        if saw.p99 > RATIO_MAX * alone.p99:
            raise Failure(f"the p99 is {saw.p99 / alone.p99:.1f} times what it is alone, at most {RATIO_MAX} are allowed")


def unharmed(saw):
    if not saw.requests:
        raise Failure("no honest saga ended while it was measured")
    if saw.failed:
        raise Failure(f"{saw.failed} of {saw.requests} honest sagas were refused or lost")


def row(title, alone, saw, accepted):
    times = (f"{ms:.2f}" for ms in (alone.p50, alone.p99, saw.p50, saw.p99))
    print(FORM.format(title, *times, f"{saw.p99 / alone.p99:.1f}", f"{accepted:.0f}"), flush=True)


def lists(options, host, title):
    """Eight clients read a list of large sagas at once."""
    with host:
        idle = host.peak_rss_bytes()
        body = saga("", {}, wait_result=True)
        body["steps"] *= 4
        body["payloads"] = [json.dumps("x" * 1_000_000)] * 4
        accepted = submit_each(host, [body] * 32, "listed", 1)
        until = int(time.time() * 1000) + 1
        alone = honest(host, "alone", options.seconds)
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(read_list, f"{host.url}/api/dtmsvr/all?limit=32&createTimeEnd={until}") for _ in range(8)]
            saw = honest(host, "beside", max(3, options.seconds))
            for read in reads:
                read.result()
        row(title, alone, saw, accepted)
        unharmed(saw)
        if saw.p99 > LISTED_P99_MS_MAX:
            raise Failure(f"the p99 is {saw.p99:.0f} ms, at most {LISTED_P99_MS_MAX} ms are allowed")
        most(idle, host.peak_rss_bytes())


def read_list(url):
    """Reads an answer without keeping it. A host that is short of memory may refuse it."""
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url, timeout=120) as answer:
        while answer.read(1 << 20):
            pass


def within(host, title, fault):
    with host:
        idle = host.peak_rss_bytes()
        accepted = fault(host)
        peak = host.peak_rss_bytes()
        time.sleep(2)  # what is free goes back to the system within moments
        mib = [f"{size / 2**20:.0f}" for size in (idle, peak, host.rss_bytes(), idle + BUDGET * PEAK_MAX)]
        print(FORM.format(title, *mib, "", "-" if accepted is None else accepted), flush=True)
        most(idle, peak)


def most(idle, peak):
    if peak > idle + BUDGET * PEAK_MAX:
        raise Failure(f"{(peak - idle) / 2**20:.0f} MiB above an idle host, the budget is {BUDGET >> 20} MiB")


def bodies(host):
    """Connections whose request's body lacks a few bytes, and then all of them close."""
    address, port = host.address.split(":")
    head = b"POST /api/dtmsvr/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4194304\r\n\r\n"

    def unfinished(_):
        stream = socket.create_connection((address, int(port)), timeout=2)
        # The host may refuse it, or read no further.
        with contextlib.suppress(OSError):
            stream.sendall(head + b'"' * 4_194_000)
        return stream

    with ThreadPoolExecutor(FLOODING) as pool:
        for stream in list(pool.map(unfinished, range(400))):
            stream.close()
