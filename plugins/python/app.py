"""A branch that records a customer's amount. The names under `wit_world` come from the contract in `wit`."""

import gc

from componentize_py_types import Err
from wit_world.exports.branch import Call, Failure_Rejected, Failure_Unavailable
from wit_world.imports import logging
from wit_world.imports import wasi_keyvalue_store as store

from decide import Rejected, decide


class Branch:
    def try_(self, call: Call) -> str | None:
        decision = decide(call.payload)
        print(decision.line)
        if isinstance(decision, Rejected):
            raise Err(Failure_Rejected(decision.reason))
        key = key_of(call)
        try:
            with store.open("default") as bucket:
                bucket.set(key, decision.record.encode())
        except Err as error:
            raise unavailable(error)
        logging.log(logging.Level.DEBUG, "", f"wrote {key}")
        return decision.record

    def cancel(self, call: Call, tried: str | None) -> None:
        # The store says what there is to take back. `tried` would say it too, but not in the world `plugin`: there it is
        # missing when nobody knows whether `try` took effect.
        key = key_of(call)
        try:
            with store.open("default") as bucket:
                found = bucket.exists(key)
                if found:
                    bucket.delete(key)
        except Err as error:
            raise unavailable(error)
        print("cancel: released" if found else "cancel: nothing to release")


def key_of(call: Call) -> str:
    """One key for a step: a repetition of `try` writes the same again."""
    return f"{call.gid}/{call.branch_id}"


def unavailable(error: Err) -> Err:
    """Has the host try again later."""
    match error.value:
        case store.Error_NoSuchStore():
            text = "no such store"
        case store.Error_AccessDenied():
            text = "access denied"
        case store.Error_Other(reason):
            text = reason
    return Err(Failure_Unavailable(text))


# Every call starts in a fresh copy of what is in memory now. A collection of all that would take longer than the call.
gc.freeze()
