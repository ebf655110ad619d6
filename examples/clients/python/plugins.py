# Run with: make test-clients
# or by hand, while `make run` is running elsewhere:
#   pip install --require-hashes -r requirements.txt && python3 plugins.py
"""DTM's Python client, unchanged, with sagas whose branches are Wasaga's two tutorial plugins."""

import os
import uuid

import requests
from dtmcli import saga, utils

DTM = os.environ.get("WASAGA_URL", "http://127.0.0.1:36789") + "/api/dtmsvr"


def submit(amount):
    """Runs a saga to its end and returns its gid; raises if it did not succeed."""
    gid = f"python-plugins-{uuid.uuid4()}"
    work = saga.Saga(DTM, gid)
    work.add({"amount": 100}, "wasm://service-a/try", "wasm://service-a/cancel")
    work.add({"amount": amount}, "wasm://service-b/try", "wasm://service-b/cancel")
    work.trans_base.wait_result = True
    print(f"{gid}: {amount} to service B")
    try:
        work.submit()
    except utils.DTMFailureError:
        return gid, "refused"
    return gid, "accepted"


def query(gid):
    return requests.get(f"{DTM}/query", params={"gid": gid}, timeout=8).json()


def check(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


# Service B accepts up to 500.
gid, answer = submit(500)
check(answer, "accepted")
state = query(gid)
check(state["transaction"]["status"], "succeed")
check([branch["status"] for branch in state["branches"]], ["prepared", "succeed", "prepared", "succeed"])

# It rejects 501, and service A is compensated.
gid, answer = submit(501)
check(answer, "refused")
state = query(gid)
check(state["transaction"]["status"], "failed")
check(state["transaction"]["rollback_reason"], "url:wasm://service-b/try return failed: simulated failure FAILURE")
check([branch["status"] for branch in state["branches"]], ["succeed", "succeed", "succeed", "failed"])

# The client can also get gids from the server.
check(utils.gen_gid(DTM) != utils.gen_gid(DTM), True)
print("python-plugins: one saga succeeded, one was rolled back")
