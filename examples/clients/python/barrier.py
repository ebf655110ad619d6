# Run with: make test-clients
# or by hand, while `make run` is running elsewhere, with a MySQL or MariaDB that has ../schema.sql:
#   pip install --require-hashes -r requirements.txt && MYSQL_UNIX_PORT=/run/mysqld/mysqld.sock python3 barrier.py
"""DTM's Python client, unchanged, with HTTP branches that this program serves behind the client's own barrier.

Money moves between two accounts of a database. In the first transfer a response is lost, so the host calls again, and the
barrier finds that the work is already done. The second transfer goes to an account that does not exist, so both steps are
compensated, and the barrier finds that the second one had no effect.
"""

import json
import os
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pymysql
import requests
from dtmcli import barrier, saga, utils

DTM = os.environ.get("WASAGA_URL", "http://127.0.0.1:36789") + "/api/dtmsvr"
SOCKET = os.environ["MYSQL_UNIX_PORT"]
RUN = uuid.uuid4()
ALICE, BOB, NOBODY = f"alice-{RUN}", f"bob-{RUN}", f"nobody-{RUN}"

calls = []


def cursor():
    return barrier.AutoCursor(pymysql.connect(unix_socket=SOCKET, user="root").cursor())


def balance(account):
    with cursor() as sql:
        sql.execute("select balance from bank.account where name = %s", (account,))
        return sql.fetchone()[0]


def change(account, amount):
    """The work of a branch inside the barrier's transaction."""

    def work(sql):
        if not sql.execute("update bank.account set balance = balance + %s where name = %s", (amount, account)):
            raise utils.DTMFailureError(f"there is no account {account}")

    return work


class Bank(BaseHTTPRequestHandler):
    """POST /take and /give, for actions and compensations; the parameter `op` says which."""

    def do_POST(self):
        url = urlsplit(self.path)
        ids = dict(parse_qsl(url.query))
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        amount = order["amount"] if (url.path == "/give") == (ids["op"] == "action") else -order["amount"]
        try:
            with cursor() as sql:
                once = barrier.BranchBarrier(ids["trans_type"], ids["gid"], ids["branch_id"], ids["op"])
                once.call(sql, change(order["account"], amount))
            # The transaction is committed; the first response of the step /give is lost.
            is_lost = order.get("lose_answer") and (url.path, ids["op"]) not in calls
            status, result = (500, "the answer got lost") if is_lost else (200, {"dtm_result": "SUCCESS"})
        except utils.DTMFailureError as failure:
            status, result = 409, {"error": str(failure)}
        calls.append((url.path, ids["op"]))
        body = json.dumps(result).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def transfer(recipient, **how):
    """Moves 30 from Alice to the recipient; returns the saga when it has ended."""
    calls.clear()
    gid = f"python-barrier-{uuid.uuid4()}"
    work = saga.Saga(DTM, gid)
    work.add({"account": ALICE, "amount": 30}, f"{bank}/take", f"{bank}/take")
    work.add({"account": recipient, "amount": 30, **how}, f"{bank}/give", f"{bank}/give")
    work.submit()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        state = requests.get(f"{DTM}/query", params={"gid": gid}, timeout=8).json()
        if state["transaction"]["status"] in ("succeed", "failed"):
            return state
        time.sleep(0.05)
    raise TimeoutError(f"the saga did not end: {state}")


def check(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


server = ThreadingHTTPServer(("127.0.0.1", 0), Bank)
threading.Thread(target=server.serve_forever, daemon=True).start()
bank = f"http://127.0.0.1:{server.server_port}"

with cursor() as sql:
    sql.execute("insert into bank.account values (%s, 100), (%s, 0)", (ALICE, BOB))
    sql.connection.commit()

state = transfer(BOB, lose_answer=True)
check(state["transaction"]["status"], "succeed")
check([branch["status"] for branch in state["branches"]], ["prepared", "succeed", "prepared", "succeed"])
check(calls, [("/take", "action"), ("/give", "action"), ("/give", "action")])
check((balance(ALICE), balance(BOB)), (70, 30))

state = transfer(NOBODY)
check(state["transaction"]["status"], "failed")
check([branch["status"] for branch in state["branches"]], ["succeed", "succeed", "succeed", "failed"])
check(NOBODY in state["transaction"]["rollback_reason"], True)
check(calls, [("/take", "action"), ("/give", "action"), ("/give", "compensate"), ("/take", "compensate")])
check((balance(ALICE), balance(BOB)), (70, 30))
print("python-barrier: one saga succeeded in spite of a lost answer, one was rolled back")
