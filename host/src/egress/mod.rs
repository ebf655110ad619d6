//! Where calls of services may go, and how their servers are verified.
//!
//! A client of the API chooses the addresses that the host calls, so the host could be made to reach what the client cannot:
//! the metadata service of a cloud, a private network, the loopback interface. [`rules`] has the operator's `allow` and
//! `deny` and the defaults. They are checked where an address is given ([`rules::Rules::check`]), and once more where a
//! connection is opened, on the very address that is connected to ([`connector`], [`lookup`]): what the name means at another time or
//! to another resolver has no effect. [`public_address`] says which addresses are public, [`tls`] which authorities are
//! trusted.
//!
//! Requests of plugins have rules of their own, by plugin; they share the last two.

pub mod connector;
#[cfg(test)]
mod fuzz;
pub mod lookup;
pub mod public_address;
pub mod rules;
pub mod tls;
