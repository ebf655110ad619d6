/**
 * A branch that records a customer's amount. The `wasi:` modules come from the contract in `wit`.
 * @module
 */

import { open } from "wasi:keyvalue/store@0.2.0-draft2";
import { log } from "wasi:logging/logging@0.1.0-draft";
import { decide } from "./decide.js";

/**
 * The fields of a call that this branch reads.
 * @typedef {{ gid: string, branchId: string, payload: string }} Call
 */

export const branch = {
  /**
   * @param {Call} call
   * @returns {string} The step's output.
   */
  try(call) {
    const { line, rejected, record } = decide(call.payload);
    console.log(line);
    if (rejected !== undefined) {
      throw { tag: "rejected", val: rejected };
    }
    const key = keyOf(call);
    try {
      open("default").set(key, new TextEncoder().encode(record));
    } catch (error) {
      throw unavailable(error);
    }
    log("debug", "", `wrote ${key}`);
    return record;
  },

  /**
   * The store shows whether there is something to take back. `tried` would show it too, but only in the world
   * `contained`: in the world `plugin` it is also missing if it is not known whether `try` took effect.
   * @param {Call} call
   * @param {string | undefined} tried
   */
  cancel(call, tried) {
    const key = keyOf(call);
    let found;
    try {
      const bucket = open("default");
      found = bucket.exists(key);
      if (found) {
        bucket.delete(key);
      }
    } catch (error) {
      throw unavailable(error);
    }
    console.log(found ? "cancel: released" : "cancel: nothing to release");
  },
};

/**
 * The key of the step's record. A repetition of `try` writes the same key again.
 * @param {Call} call
 */
function keyOf({ gid, branchId }) {
  return `${gid}/${branchId}`;
}

/**
 * Lets the host retry later after an error of the store, which has a payload. Other errors are returned unchanged.
 * @param {any} error
 */
function unavailable(error) {
  const { payload } = error;
  return payload ? { tag: "unavailable", val: payload.val ?? payload.tag } : error;
}
