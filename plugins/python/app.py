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
        # The store shows whether there is something to take back. `tried` would show it too, but only in the world
        # `contained`: in the world `plugin` it is also missing if it is not known whether `try` took effect.
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
    """The key of the step's record. A repetition of `try` writes the same key again."""
    return f"{call.gid}/{call.branch_id}"


def unavailable(error: Err) -> Err:
    """Lets the host retry later."""
    match error.value:
        case store.Error_NoSuchStore():
            text = "no such store"
        case store.Error_AccessDenied():
            text = "access denied"
        case store.Error_Other(reason):
            text = reason
    return Err(Failure_Unavailable(text))


# Every call starts in a copy of the memory at this point. Collecting the objects in it would take longer than the call.
gc.freeze()
