//! A branch that records a customer's amount. [`decision`] decides; this file connects it with the host.

mod decision;

wit_bindgen::generate!({ world: "contained", path: "wit", generate_all });

use decision::Decision;
use exports::wasaga::saga::branch::{Call, Failure, Guest};
use wasi::{
    keyvalue::store,
    logging::logging::{Level, log},
};

struct Branch;

impl Guest for Branch {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        let Decision { line, record } = decision::decide(&call.payload);
        println!("{line}");
        let record = record.map_err(|reason| Failure::Rejected(reason.into()))?;
        let key = key_of(&call);
        store::open("default").and_then(|bucket| bucket.set(&key, record.as_bytes())).map_err(unavailable)?;
        log(Level::Debug, "", &format!("wrote {key}"));
        Ok(Some(record))
    }

    /// The store shows whether there is something to take back. `tried` would show it too, but only in the world
    /// `contained`: in the world `plugin` it is also missing if it is not known whether `try` took effect.
    fn cancel(call: Call, _tried: Option<String>) -> Result<(), Failure> {
        let (key, bucket) = (key_of(&call), store::open("default").map_err(unavailable)?);
        let was_there = bucket.exists(&key).map_err(unavailable)?;
        if was_there {
            bucket.delete(&key).map_err(unavailable)?;
        }
        println!("{}", if was_there { "cancel: released" } else { "cancel: nothing to release" });
        Ok(())
    }
}

/// The key of the step's record. A repetition of `try` writes the same key again.
fn key_of(call: &Call) -> String {
    format!("{}/{}", call.gid, call.branch_id)
}

/// Lets the host retry later.
fn unavailable(error: store::Error) -> Failure {
    Failure::Unavailable(match error {
        store::Error::NoSuchStore => "no such store".into(),
        store::Error::AccessDenied => "access denied".into(),
        store::Error::Other(reason) => reason,
    })
}

export!(Branch);
