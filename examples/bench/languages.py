"""The cost of each guest language (loading, calls, memory), and whether a heavy one slows a light one down."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from processes import Failure, Server, load, spin

LANGUAGES = ["rust", "c", "go", "javascript", "python"]
FORM = "{:<12}{:>9}{:>12}{:>12}{:>10}{:>9}{:>9}{:>9}{:>11}"
# Least throughput of a language while others compute, relative to its own host. Measured on two processors, which wrk
# shared: half and more for both. If calls of the light language wait for those of the heavy one, it keeps a tenth.
LIGHT_SHARE_MIN = 0.3
HEAVY_SHARE_MIN = 0.2
SPINNING_SHARE_MIN = 0.2
HEAD = ("language", "MiB", "compile s", "cached s", "a second", "p50 ms", "p99 ms", "CPU us", "MiB a call")
SLOTS = 32
SPINNING = 8


def body(language):
    step = {"action": f"wasm://{language}/try", "compensate": f"wasm://{language}/cancel"}
    saga = {"gid": "GID", "trans_type": "saga", "steps": [step], "payloads": ['{"amount":100}'], "wait_result": True}
    return json.dumps(saga)


def missing(options):
    """The missing prerequisite of these measurements, or None."""
    components = options.languages
    if names := [name for name in LANGUAGES if not (components / f"{name}.wasm").exists()]:
        return f"{components} has no {', '.join(names)}: run `make test-languages` first, which builds them"
    return None


def run(options, folder):
    """Measures each language in a host of its own, then all of them in one."""
    print("\nlanguages: a saga of one branch that writes one key; loaded by a host that has nothing else to load")
    print(FORM.format(*HEAD), flush=True)
    for language in LANGUAGES:
        plugins = folder / f"plugins-{language}"
        plugins.mkdir()
        shutil.copy(options.languages / f"{language}.wasm", plugins)
        row(options, folder, language, plugins)
    together(options, folder)


def server(options, folder, name, plugins):
    settings = folder / f"{name}.toml"
    # As many plans at once as guests.
    settings.write_text(f"[plugins]\nslots = {SLOTS}\n[saga.plan]\nat_once = {SLOTS}\n")
    command = [options.host, "--config", settings, "--data", folder / name, "--plugins", plugins, "--grpc-listen", "off"]
    env = {"WASAGA_LOG": "warn"}
    return Server("wasaga", lambda at: [*command, "--listen", at], "/api/ping", folder / f"{name}.log", env)


def row(options, folder, language, plugins):
    host = server(options, folder, f"lang-{language}", plugins)
    begun = time.monotonic()
    with host:
        compiled = time.monotonic() - begun
        host.stop(15)
        cached = host.start()
        submit = host.url + "/api/dtmsvr/submit"
        load(submit, body(language), "warm-up-", 1, 1)
        one = load(submit, body(language), "one-", 1, options.seconds)
        cpu = host.cpu_seconds()
        many = load(submit, body(language), "many-", SLOTS, options.seconds)
        cpu = (host.cpu_seconds() - cpu) / max(many.requests, 1)
        for saw in (one, many):
            right(language, saw, host)
    each = memory(server(options, folder, f"memory-{language}", plugins), language)
    size = (plugins / f"{language}.wasm").stat().st_size
    numbers = (f"{size / 2**20:.1f}", f"{compiled:.2f}", f"{cached:.2f}", f"{many.per_second:,.0f}")
    numbers += (f"{one.p50:.2f}", f"{one.p99:.2f}", f"{cpu * 1e6:.0f}", f"{each / 2**20:.1f}")
    print(FORM.format(language, *numbers), flush=True)


def right(language, saw, host):
    if saw.failed or not saw.requests:
        raise Failure(f"{language}: {saw.failed} of {saw.requests} answers wrong; log:\n{host.last_words()}")


def memory(host, language):
    """Bytes of memory that the host keeps for each additional concurrent call.

    Plans run the guests and store nothing, so the growth is not that of sagas. The first load has one call at a time, which
    allocates what all calls share. The second has as many as there are slots, each of which keeps the memory of its guest.
    """
    with host:
        plan = host.url + "/api/v1/sagas/plan"
        right(language, load(plan, body(language), "plan-", 1, 2), host)
        before = host.rss_bytes()
        right(language, load(plan, body(language), "plans-", SLOTS, 2), host)
        return (host.rss_bytes() - before) / (SLOTS - 1)


def together(options, folder):
    """Measures the sagas of 4 connections in one language while others keep the host busy."""
    plugins = folder / "plugins-all"
    plugins.mkdir()
    for language in LANGUAGES:
        shutil.copy(options.languages / f"{language}.wasm", plugins)
    shutil.copy(options.fixtures / "chaos.wasm", plugins)
    with server(options, folder, "lang-all", plugins) as host:
        for language in ("rust", "python"):
            few(host, language, "warm-up", 1)
        alone = {language: few(host, language, "alone", options.seconds) for language in ("rust", "python")}
        with ThreadPoolExecutor(1) as other:
            heavy = other.submit(few, host, "python", "beside", options.seconds)
            beside = {"rust": few(host, "rust", "beside", options.seconds), "python": heavy.result()}
        for number in range(SPINNING):
            spin(host, f"spin-{number}")
        spinning = {language: few(host, language, "spinning", options.seconds) for language in ("rust", "python")}
    print("\nwhat is left of 4 connections' sagas")
    left("rust, beside python", alone["rust"], beside["rust"], LIGHT_SHARE_MIN)
    left("python, beside rust", alone["python"], beside["python"], HEAVY_SHARE_MIN)
    for language in spinning:
        left(f"{language}, while {SPINNING} guests spin", alone[language], spinning[language], SPINNING_SHARE_MIN)


def few(host, language, name, seconds):
    saw = load(host.url + "/api/dtmsvr/submit", body(language), f"{language}-{name}-", 4, seconds)
    right(language, saw, host)
    return saw


def left(what, alone, disturbed, least):
    share = disturbed.per_second / alone.per_second
    slower = (disturbed.p50 / alone.p50, disturbed.p99 / alone.p99)
    print(f"{what:<34}{share:>6.0%}   p50 x {slower[0]:.1f}   p99 x {slower[1]:.1f} ({disturbed.p99:.1f} ms)", flush=True)
    if share < least:
        raise Failure(f"{what}: {share:.0%} of the sagas are left, at least {least:.0%} must be")
