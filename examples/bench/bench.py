#!/usr/bin/env python3
"""The speed of the host, relative to that of a plain HTTP echo on the same machine in the same minutes.

Run with: make bench            (or, after `cargo build --release --bin wasaga --example bench_peer`:)
          python3 examples/bench/bench.py [--quick] [--only c,d] [--connections 64] [--seconds 5]

Starts target/release/wasaga with an empty data folder, and a peer that echoes JSON and serves the HTTP branches. Drives
both with wrk (loopback, keep-alive, closed loop), and prints one row for each case and number of connections. Every saga
is submitted with wait_result, has its own gid, and is on disk before the response.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ beside the sources

import costs
import faults
import languages
import open_sagas
from processes import Failure, Server, http, load, need_wrk, saga_status, spin, submit

ROOT = Path(__file__).resolve().parents[2]
SUCCESS = '{"dtm_result":"SUCCESS"}'
ACCOUNTS = 2000  # load.lua has this many numbers


@dataclass
class Case:
    """One kind of saga, and the response that it must get."""

    name: str
    steps: list
    amounts: tuple = (100, 100)
    status: int = 200
    text: str = SUCCESS
    ends_as: str = "succeed"
    accounts: tuple = ()
    spinning: int = 0
    script: list = None
    then: dict = field(default_factory=dict)

    def body(self, gid="GID"):
        steps = [{"action": action, "compensate": compensation} for action, compensation in self.steps]
        payloads = [json.dumps({"amount": amount}) for amount in self.amounts]
        if self.accounts:
            moves = zip(self.accounts, self.amounts)
            payloads = [json.dumps({"account": account, "amount": amount}) for account, amount in moves]
        if self.script is not None:
            payloads = [json.dumps({"try": "kv", "kv": self.script, **self.then})] * len(steps)
        saga = {"gid": gid, "trans_type": "saga", "steps": steps, "payloads": payloads, "wait_result": True}
        return json.dumps(saga)


def cases(peer_url):
    wasm = [(f"wasm://service-{s}/try", f"wasm://service-{s}/cancel") for s in "ab"]
    chaos = [("wasm://chaos/try", "wasm://chaos/cancel")] * 2
    money = [("wasm://account/try", "wasm://account/cancel")] * 2
    # One key is only read and one only written, so there are no conflicts.
    operations = [["get", "read"], ["set", "written", "1"]] * (costs.OPERATIONS // 2)
    # The attempt sleeps, so that others commit meanwhile.
    asleep = {"then": {"then": "sleep", "ms": 1}}
    rejected = {"amounts": (100, 600), "status": 409, "text": "simulated failure", "ends_as": "failed"}
    return {
        "b": Case("two empty steps", [("", "")] * 2),
        "c": Case("two Wasm branches", wasm),
        "d": Case("rolled back: try, reject, cancel", wasm, **rejected),
        "e": Case("two HTTP branches", [(peer_url + "/succeed", peer_url + "/succeed")] * 2),
        "f": Case("transfers, key-value", money, accounts=("account-EVEN", "account-ODD"), amounts=(-1, 1)),
        "g": Case("transfers, always the same two", money, accounts=("account-0000", "account-0001"), amounts=(-1, 1)),
        "h": Case("two Wasm branches, 4 guests spin", wasm, spinning=4),
        "i": Case("two scripts, no operation", chaos, script=[]),
        "j": Case(f"two scripts, {costs.OPERATIONS} operations each", chaos, script=operations),
        "k": Case("slow increments, many keys", chaos[:1], script=[["increment", "key-EVEN"]], **asleep),
        "l": Case("slow increments, one key", chaos[:1], script=[["increment", "key-0000"]], **asleep),
    }


def set_the_scene(host, case):
    """Opens the accounts that the load uses, and starts the guests that spin forever."""
    if case.accounts:
        for first in range(0, ACCOUNTS, 100):
            names = [f"account-{number:04}" for number in range(first, first + 100)]
            steps = [{"action": "wasm://account/try", "compensate": "wasm://account/cancel"}] * len(names)
            payloads = [json.dumps({"account": name, "open": 10**12}) for name in names]
            submit(host, {"gid": f"open-{first}", "steps": steps, "payloads": payloads, "wait_result": True})
    for number in range(case.spinning):
        spin(host, f"spin-{number}")


def prove(host, case):
    """Submits one saga and checks the response and the saga's result: speed means nothing if they are wrong."""
    status, text = http(host.url + "/api/dtmsvr/submit", case.body("proof").replace("EVEN", "0000").replace("ODD", "0001"))
    if status != case.status or case.text not in text:
        wanted = f"{case.status} with {case.text!r}"
        raise Failure(f"{case.name}: expected {wanted}, got {status}: {text}\n{host.last_words()}")
    deadline = time.monotonic() + 10  # the response may precede the end of a rollback
    while (status := saga_status(host, "proof")) != case.ends_as:
        if time.monotonic() > deadline:
            raise Failure(f"{case.name}: expected a saga that ends as {case.ends_as}, it is {status}")
        time.sleep(0.05)


def settle(host, case):
    """Waits for unfinished sagas of the previous load, so that they are not counted with the next one."""
    deadline = time.monotonic() + 30
    while (left := host.metric("wasaga_sagas_open")) > case.spinning:
        if time.monotonic() > deadline:
            raise Failure(f"{case.name}: {left:.0f} sagas do not end\n{host.last_words()}")
        time.sleep(0.05)


class Table:
    HEAD = ("case", "connections", "a second", "of echo", "p50 ms", "p99 ms", "p99.9 ms", "syncs", "CPU us", "RSS MiB")
    FORM = "{:<34}{:>12}{:>10}{:>9}{:>9}{:>9}{:>10}{:>8}{:>8}{:>9}"

    def __init__(self):
        self.failed = 0
        print(self.FORM.format(*self.HEAD), flush=True)

    def row(self, name, connections, saw, ratio, syncs, cpu_us, rss_bytes):
        times = (f"{ms:.2f}" for ms in (saw.p50, saw.p99, saw.p999))
        rest = (syncs, f"{cpu_us:.0f}", f"{rss_bytes / 2**20:.0f}")
        print(self.FORM.format(name, connections, f"{saw.per_second:,.0f}", ratio, *times, *rest), flush=True)

    def fail(self, what):
        self.failed += 1
        print(f"  !! FAILED: {what}", flush=True)


def measure_echo(peer, connections, seconds):
    """Measures the ceiling. Returns the result of wrk and the peer's CPU microseconds for one request."""
    cpu = peer.cpu_seconds()
    saw = load(peer.url + "/echo", Case("echo", [("", "")] * 2).body(), "echo-", connections, seconds)
    if saw.failed:
        raise Failure(f"{saw.failed} of {saw.requests} echoes failed")
    return saw, (peer.cpu_seconds() - cpu) / saw.requests * 1e6


def measure_case(table, host, peer, case, connections, seconds):
    """Measures one row: half of the echo, the sagas, the other half. Returns both echoes and the cost of a saga."""
    ended = f'wasaga_sagas_finished_total{{status="{case.ends_as}"}}'
    expected = (case.status, case.text) if case.status != 200 else ()
    settle(host, case)
    echoes = [measure_echo(peer, connections, max(1, seconds // 2))]
    finished, syncs, cpu = host.metric(ended), host.metric("wasaga_journal_syncs_total"), host.cpu_seconds()
    conflicts = host.metric("wasaga_conflicts_total")
    prefix = f"bench-{connections}-"
    saw = load(host.url + "/api/dtmsvr/submit", case.body(), prefix, connections, seconds, expected)
    syncs, cpu = host.metric("wasaga_journal_syncs_total") - syncs, host.cpu_seconds() - cpu
    echoes.append(measure_echo(peer, connections, max(1, seconds // 2)))
    # After the second echo, since the response may precede the end of a rollback.
    finished, conflicts = host.metric(ended) - finished, host.metric("wasaga_conflicts_total") - conflicts
    ceiling = sum(echo.per_second for echo, _ in echoes) / len(echoes)
    per_saga = max(finished, 1)
    ratio, syncs_text = f"{saw.per_second / ceiling:.1%}", f"{syncs / per_saga:.2f}"
    table.row(case.name, connections, saw, ratio, syncs_text, cpu / per_saga * 1e6, host.rss_bytes())
    row = f"row above ({case.name}, {connections} connections) is not valid"
    if saw.failed:
        table.fail(f"{row}: {saw.failed} of {saw.requests} answers wrong or missing; log:\n{host.last_words()}")
    # At its end wrk leaves at most one unfinished saga for each connection.
    if not saw.requests <= finished <= saw.requests + connections:
        table.fail(f"{row}: {saw.requests} sagas answered, but {finished:.0f} ended as {case.ends_as}")
    return echoes, costs.Cost(cpu / per_saga * 1e6, conflicts / per_saga)


def run(options, folder):
    plugins = folder / "plugins"
    plugins.mkdir()
    for component in (*options.plugins.glob("*.wasm"), *options.fixtures.glob("*.wasm")):
        shutil.copy(component, plugins)

    def host(data):
        # Without gRPC, since the port after that of HTTP may be in use.
        command = [options.host, "--data", folder / data, "--plugins", plugins, "--grpc-listen", "off"]
        env = {"WASAGA_LOG": "warn"}
        return Server("wasaga", lambda at: [*command, "--listen", at], "/api/ping", folder / f"{data}.log", env)

    table, echoes, found_costs = Table(), {}, {}
    with Server("bench_peer", lambda at: [options.peer, at], "/busy/calls", folder / "peer.log") as peer:
        known = cases(peer.url)
        for letter in (letter for letter in options.only if letter in known):
            case = known[letter]
            try:
                with host(letter) as server:
                    set_the_scene(server, case)
                    prove(server, case)
                    load(server.url + "/api/dtmsvr/submit", case.body(), "warm-up-", options.connections[-1], 1)
                    for connections in options.connections:
                        found, cost = measure_case(table, server, peer, case, connections, options.seconds)
                        echoes.setdefault(connections, []).extend(found)
                        found_costs[letter, connections] = cost
            except Failure as failure:
                table.fail(str(failure))
        if "a" in options.only:
            for connections in options.connections:
                found = echoes.get(connections) or [measure_echo(peer, connections, options.seconds)]
                saw, cpu_us = sorted(found, key=lambda echo: echo[0].per_second)[len(found) // 2]
                name = "JSON echo, the ceiling" + (f" (median of {len(found)})" if len(found) > 1 else "")
                table.row(name, connections, saw, "100.0%", "-", cpu_us, peer.rss_bytes())
        costs.show(found_costs, options.connections)
        if "open" in options.only:
            with host("open") as server:
                open_sagas.run(server, peer, folder / "open", options.sagas)
    if "faults" in options.only:
        faults.run(options, folder, table)
    if "lang" in options.only:
        try:
            languages.run(options, folder)
        except Failure as failure:
            table.fail(str(failure))
    return table


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda kind: lambda text: [kind(word) for word in text.split(",")]
    everything = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "open", "faults", "lang"]
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of 15: less precise numbers")
    parser.add_argument("--only", type=listed(str), help=",".join(everything))
    parser.add_argument("--connections", type=listed(int), help="default 1,16,64,256")
    parser.add_argument("--seconds", type=int, help="duration of the load for each row, default 6")
    parser.add_argument("--sagas", type=int, help="number of open sagas, at least; default 100000")
    parser.add_argument("--host", type=Path, default=ROOT / "target/release/wasaga")
    parser.add_argument("--peer", type=Path, default=ROOT / "target/release/examples/bench_peer")
    parser.add_argument("--plugins", type=Path, default=ROOT / "target/plugins", help="folder with service-a, service-b, account")
    parser.add_argument("--fixtures", type=Path, default=ROOT / "target/fixtures", help="folder with chaos")
    components = ROOT / "target/languages/components"
    parser.add_argument("--languages", type=Path, default=components, help="folder that make test-languages fills")
    options = parser.parse_args()
    # Checked before anything is measured.
    undone = languages.missing(options)
    if undone and "lang" in (options.only or ()):
        parser.error(undone)
    if options.only is None:
        options.only = [case for case in everything if case != "lang" or not undone]
        if undone:
            print(f"lang is left out: {undone}", flush=True)
    if unknown := set(options.only) - set(everything):
        parser.error(f"--only knows {','.join(everything)}, not {','.join(unknown)}")
    options.connections = options.connections or ([1, 64] if options.quick else [1, 16, 64, 256])
    options.seconds = options.seconds or (2 if options.quick else 6)
    options.sagas = options.sagas or (10_000 if options.quick else 100_000)
    for program in (options.host, options.peer):
        if not program.exists():
            parser.error(f"{program} is not built: use make bench")
    return options


def main():
    options = parse()
    need_wrk()
    # Beside the binaries, since /tmp is in memory on many machines, where a sync costs nothing.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.host.parent) as folder:
        disk = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
        if disk == "tmpfs":
            sys.exit(f"{folder} is in memory, where a sync costs nothing: build on a disk")
        print(f"{os.cpu_count()} cores shared with wrk, load {os.getloadavg()[0]:.1f} before; data on {disk}.")
        print(f"{options.seconds} s a row. Syncs and CPU: of the host for each saga (echo: of the peer, request).\n")
        try:
            failed = run(options, Path(folder)).failed
        except Failure as failure:
            sys.exit(f"FAILED: {failure}")
        if failed:
            sys.exit(f"\nFAILED: {failed} rows failed, see above")


if __name__ == "__main__":
    main()
