"""The processes of a benchmark: the host, its peer, and wrk."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS_MAX = 120  # a start replays the journal, which takes time
STOP_SECONDS_MAX = 60
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """An error that makes a measurement invalid. The benchmark prints it and exits with status 1."""


def http(url, body=None):
    """The status and the body of a response; None and the error if there is none."""
    request = urllib.request.Request(url, data=body and body.encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, HTTPException) as error:
        return None, str(error)


class Server:
    """A child process that serves HTTP on a free loopback port. Killed at the end of its `with` block if it still runs."""

    def __init__(self, name, command, probe, log, env=None):
        """`command` is called with the address. The server is ready when the path `probe` returns 200."""
        self.name, self.command, self.probe, self.log = name, command, probe, log
        self.env = {**os.environ, **(env or {})}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.url = "http://" + self.address

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.stop(signal.SIGKILL)

    def start(self):
        """Starts the process and returns the seconds until it is ready."""
        begun = time.monotonic()
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command(self.address), stdout=log, stderr=log, env=self.env)
        while http(self.url + self.probe)[0] != 200:
            if self.child.poll() is not None or time.monotonic() - begun > START_SECONDS_MAX:
                raise Failure(f"{self.name} did not start:\n{self.last_words()}")
            time.sleep(0.002)
        return time.monotonic() - begun

    def stop(self, how):
        """Sends a signal and returns the seconds until the process has ended."""
        begun = time.monotonic()
        self.child.send_signal(how)
        try:
            self.child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise Failure(f"{self.name} did not end within {STOP_SECONDS_MAX} s of signal {how}") from None
        return time.monotonic() - begun

    def cpu_seconds(self):
        # The name, in brackets, can hold blanks; user and system time are fields 14 and 15 (proc_pid_stat(5)).
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    def rss_bytes(self):
        return self.memory_bytes("VmRSS:")

    def peak_rss_bytes(self):
        return self.memory_bytes("VmHWM:")

    def memory_bytes(self, field):
        lines = Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    def metric(self, name):
        """A counter of the host, by its full name with labels; 0 for labels that have no count yet."""
        status, text = http(self.url + "/api/metrics")
        if status != 200 or name.split("{")[0] not in text:
            raise Failure(f"{self.name} has no metric {name} (GET /api/metrics: {status})")
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return next((float(value) for key, _, value in lines if key == name), 0.0)

    def last_words(self):
        return "\n".join(Path(self.log).read_text(errors="replace").splitlines()[-20:])


def saga_status(host, gid):
    """The status of one saga, or None if the host does not know it."""
    status, text = http(f"{host.url}/api/dtmsvr/query?gid={gid}")
    if status != 200:
        raise Failure(f"query of {gid} failed: {status} {text}\n{host.last_words()}")
    saga = json.loads(text)["transaction"]
    return saga and saga["status"]


@dataclass
class Load:
    """The result of wrk: the number of responses, of wrong or missing ones, and latencies in milliseconds."""

    requests: int
    failed: int
    per_second: float
    p50: float
    p99: float
    p999: float


def load(url, body, prefix, connections, seconds, expected=()):
    """Drives a closed loop: each connection sends its next request after the response to the previous one.

    wrk corrects the percentiles for coordinated omission: requests that a slow response has delayed count too.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", HERE / "load.lua", url]
    done = subprocess.run([*command, "--", body, prefix, *map(str, expected)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise Failure(f"wrk failed:\n{done.stdout}{done.stderr}")
    saw = json.loads(lines[-1])
    percentiles = (saw[p] / 1000 for p in ("p50", "p99", "p999"))
    return Load(saw["requests"], saw["failed"], saw["requests"] / saw["seconds"], *percentiles)


def need_wrk():
    """Installs wrk, or exits with advice if that is not possible."""
    if shutil.which("wrk"):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("installing wrk, the load generator (apt-get install wrk) ...", flush=True)
        subprocess.run(["apt-get", "install", "-y", "-q", "wrk"], stdout=subprocess.DEVNULL, check=False)
    if not shutil.which("wrk"):
        sys.exit("The load generator wrk is missing. Install it (Debian, Ubuntu: apt-get install wrk) and try again.")


def submit(host, saga):
    status, text = http(host.url + "/api/dtmsvr/submit", json.dumps({"trans_type": "saga", **saga}))
    if status != 200:
        raise Failure(f"{saga['gid']}: {status} {text}\n{host.last_words()}")


def spin(host, gid):
    """Submits a saga whose guest never ends."""
    step = {"action": "wasm://chaos/try", "compensate": ""}
    submit(host, {"gid": gid, "steps": [step], "payloads": ['{"try":"spin"}'], "request_timeout": 3600})
