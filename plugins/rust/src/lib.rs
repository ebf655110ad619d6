//! A branch that records a customer's amount: what it answers is decided in [`decision`], the rest is here.

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

    /// The store says what there is to take back. `tried` would say it too, but not in the world `plugin`: there it is
    /// missing when nobody knows whether `try` took effect.
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

/// One key for a step: a repetition of `try` writes the same again.
fn key_of(call: &Call) -> String {
    format!("{}/{}", call.gid, call.branch_id)
}

/// Has the host try again later.
fn unavailable(error: store::Error) -> Failure {
    Failure::Unavailable(match error {
        store::Error::NoSuchStore => "no such store".into(),
        store::Error::AccessDenied => "access denied".into(),
        store::Error::Other(reason) => reason,
    })
}

export!(Branch);
