//! The types of `wasaga:saga/branch` (`wit/saga.wit`).
//!
//! Written by hand: the generator of host bindings cannot express a function with the name `try`.

use wasmtime::component::{ComponentType, Lift, Lower, TypedFunc};

use crate::saga::Op;

/// The interface that a plugin exports.
pub const INTERFACE: &str = "wasaga:saga/branch@0.1.0";

/// The function of an operation; also the last part of the operation's address.
pub const fn function(op: Op) -> &'static str {
    match op {
        Op::Action => "try",
        Op::Compensate => "cancel",
    }
}

/// The operation of a function.
pub fn operation(function: &str) -> Option<Op> {
    [Op::Action, Op::Compensate].into_iter().find(|op| self::function(*op) == function)
}

/// The record `call`.
#[derive(ComponentType, Lower)]
#[component(record)]
pub struct Call<'a> {
    pub gid: &'a str,
    #[component(name = "branch-id")]
    pub branch_id: &'a str,
    pub attempt: u32,
    pub payload: &'a str,
    pub headers: &'a [(String, String)],
    pub results: &'a [(String, &'a str)],
    #[component(name = "idempotency-key")]
    pub idempotency_key: &'a str,
}

/// The variant `failure`.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum Failure {
    #[component(name = "rejected")]
    Rejected(String),
    #[component(name = "ongoing")]
    Ongoing(Option<u32>),
    #[component(name = "unavailable")]
    Unavailable(String),
}

/// Parameters of `try`.
pub type TryParams<'a> = (&'a Call<'a>,);
/// Results of `try`.
pub type TryResults = (Result<Option<String>, Failure>,);
/// Parameters of `cancel`.
pub type CancelParams<'a> = (&'a Call<'a>, Option<&'a str>);
/// Results of `cancel`.
pub type CancelResults = (Result<(), Failure>,);

/// `try` of an instance.
pub type Try<'a> = TypedFunc<TryParams<'a>, TryResults>;
/// `cancel` of an instance.
pub type Cancel<'a> = TypedFunc<CancelParams<'a>, CancelResults>;
