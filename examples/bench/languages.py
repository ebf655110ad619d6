"""What a guest language costs: to load, to call, to hold, and whether a heavy one spoils a light one."""

import json
import shutil
import threading
import time

from processes import Failure, Server, load

LANGUAGES = ["rust", "c", "go", "javascript", "python"]
FORM = "{:<12}{:>9}{:>12}{:>12}{:>10}{:>9}{:>9}{:>9}{:>11}"
HEAD = ("language", "MiB", "compile s", "cached s", "a second", "p50 ms", "p99 ms", "CPU us", "MiB a call")
SLOTS = 32


def body(language):
    step = {"action": f"wasm://{language}/try", "compensate": f"wasm://{language}/cancel"}
    saga = {"gid": "GID", "trans_type": "saga", "steps": [step], "payloads": ['{"amount":100}'], "wait_result": True}
    return json.dumps(saga)


def run(options, folder):
    """A host for each language alone, then all of them in one."""
    components = options.languages
    if missing := [name for name in LANGUAGES if not (components / f"{name}.wasm").exists()]:
        raise Failure(f"{components} has no {', '.join(missing)}: run `make test-languages` first, which builds them")
    print("\nlanguages: a saga of one branch that writes one key; loaded by a host that has nothing else to load")
    print(FORM.format(*HEAD), flush=True)
    for language in LANGUAGES:
        plugins = folder / f"plugins-{language}"
        plugins.mkdir()
        shutil.copy(components / f"{language}.wasm", plugins)
        row(options, folder, language, plugins)
    together(options, folder)


def server(options, folder, name, plugins):
    settings = folder / f"{name}.toml"
    settings.write_text(f"[plugins]\nslots = {SLOTS}\n")
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
        rss = host.rss_bytes()
        # As many at once as there are places: what stays is what the places keep.
        cpu = host.cpu_seconds()
        many = load(submit, body(language), "many-", SLOTS, options.seconds)
        cpu = (host.cpu_seconds() - cpu) / max(many.requests, 1)
        each = (host.rss_bytes() - rss) / (SLOTS - 1)
        for saw in (one, many):
            if saw.failed:
                raise Failure(f"{language}: {saw.failed} of {saw.requests} answers wrong; log:\n{host.last_words()}")
    size = (plugins / f"{language}.wasm").stat().st_size
    numbers = (f"{size / 2**20:.1f}", f"{compiled:.2f}", f"{cached:.2f}", f"{many.per_second:,.0f}")
    numbers += (f"{one.p50:.2f}", f"{one.p99:.2f}", f"{cpu * 1e6:.0f}", f"{each / 2**20:.1f}")
    print(FORM.format(language, *numbers), flush=True)


def together(options, folder):
    """What the sagas of the lightest language see while others keep the heaviest ones busy."""
    plugins = folder / "plugins-all"
    plugins.mkdir()
    for language in LANGUAGES:
        shutil.copy(options.languages / f"{language}.wasm", plugins)
    with server(options, folder, "lang-all", plugins) as host:
        submit = host.url + "/api/dtmsvr/submit"
        load(submit, body("rust"), "warm-up-", 4, 1)
        alone = load(submit, body("rust"), "alone-", 4, options.seconds)
        beside = threading.Thread(target=load, args=(submit, body("python"), "beside-", 4, options.seconds + 1))
        beside.start()
        time.sleep(0.5)
        disturbed = load(submit, body("rust"), "disturbed-", 4, options.seconds)
        beside.join()
    ratios = (disturbed.per_second / alone.per_second, disturbed.p50 / alone.p50, disturbed.p99 / alone.p99)
    print("rust at 4 connections, with python at 4 more: %.0f %% of the sagas, p50 x %.1f, p99 x %.1f" % (ratios[0] * 100, *ratios[1:]))
