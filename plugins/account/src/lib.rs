//! Accounts that hold money. A transfer is a saga of two steps: out of one account, into another.
//!
//! The payload says what a step does. Amounts are integers, in the smallest unit of the currency:
//!
//! - `{"account": "alice", "amount": -30}` moves 30 out of the account; a positive amount moves money in. Rejected if
//!   there is no such account, or not enough money in it.
//! - `{"account": "alice", "open": 100}` opens the account with 100 in it. Rejected if the account exists.
//! - `{"account": "alice"}` reads the balance and changes nothing.
//!
//! The output is the account after the step: `{"account": "alice", "balance": 70}`.
//!
//! The code has no locks, no marks of what is done, and no checks for duplicates. The writes of a call are committed
//! together with its result, or not at all; and `cancel` is called only for a `try` that took effect, until it takes
//! effect itself. So each takes effect exactly once.

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

use exports::wasaga::saga::branch::{Call, Failure, Guest};
use serde::Deserialize;
use serde_json::json;
use wasi::keyvalue::store::{self, Bucket};

struct Account;

impl Guest for Account {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        let Request { account, operation } = Request::read(&call.payload).map_err(Failure::Rejected)?;
        let accounts = Accounts::open()?;
        let before = accounts.balance(&account)?;
        let balance = operation.apply(before).map_err(|why| Failure::Rejected(format!("{account}: {why}")))?;
        if before != Some(balance) {
            accounts.set(&account, balance)?;
        }
        Ok(Some(json!({ "account": account, "balance": balance }).to_string()))
    }

    /// Takes the amount back, even if it has been spent meanwhile, which overdraws the account. An account that was opened
    /// is closed again, unless its balance has changed meanwhile.
    fn cancel(call: Call, tried: Option<String>) -> Result<(), Failure> {
        // A `try` that has not succeeded leaves nothing to take back.
        let (Some(_), Ok(Request { account, operation })) = (tried, Request::read(&call.payload)) else {
            return Ok(());
        };
        let (Operation::Open(amount) | Operation::Move(amount)) = operation else { return Ok(()) };
        let accounts = Accounts::open()?;
        let before = accounts.balance(&account)?.unwrap_or(0);
        let balance = before.checked_sub(amount);
        let balance = balance.ok_or_else(|| Failure::Unavailable(format!("{account}: the balance would overflow")))?;
        match operation {
            Operation::Open(_) if balance == 0 => accounts.close(&account),
            _ => accounts.set(&account, balance),
        }
    }
}

/// A payload.
struct Request {
    account: String,
    operation: Operation,
}

enum Operation {
    Open(i64),
    Move(i64),
    Read,
}

/// Longest name of an account, in bytes: less than the store allows for a key.
const NAME_BYTES_MAX: usize = 128;

impl Request {
    fn read(payload: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Payload {
            account: String,
            amount: Option<i64>,
            open: Option<i64>,
        }
        // serde also reads an array as a struct, its elements as the fields in order.
        if !payload.trim_start().starts_with('{') {
            return Err("invalid request: the payload is no JSON object".into());
        }
        let payload: Payload = serde_json::from_str(payload).map_err(|error| format!("invalid request: {error}"))?;
        let operation = match (payload.amount, payload.open) {
            (Some(0), None) => return Err("invalid request: the amount is 0".into()),
            (Some(amount), None) => Operation::Move(amount),
            (None, Some(amount)) if amount < 0 => return Err("invalid request: opened with less than 0".into()),
            (None, Some(amount)) => Operation::Open(amount),
            (None, None) => Operation::Read,
            (Some(_), Some(_)) => return Err("invalid request: both amount and open".into()),
        };
        if payload.account.is_empty() || payload.account.len() > NAME_BYTES_MAX {
            return Err(format!("invalid request: an account's name has from 1 to {NAME_BYTES_MAX} bytes"));
        }
        Ok(Self { account: payload.account, operation })
    }
}

impl Operation {
    /// The balance after the operation, or why it is rejected. `None` means that the account does not exist.
    fn apply(&self, balance: Option<i64>) -> Result<i64, &'static str> {
        match (self, balance) {
            (Self::Open(amount), None) => Ok(*amount),
            (Self::Open(_), Some(_)) => Err("there is such an account already"),
            (_, None) => Err("there is no such account"),
            (Self::Read, Some(balance)) => Ok(balance),
            (Self::Move(amount), Some(balance)) => match balance.checked_add(*amount) {
                None => Err("the balance would overflow"),
                Some(after) if *amount < 0 && after < 0 => Err("insufficient funds"),
                Some(after) => Ok(after),
            },
        }
    }
}

/// The bucket of the accounts: the keys are their names, the values their balances in decimal.
struct Accounts(Bucket);

impl Accounts {
    fn open() -> Result<Self, Failure> {
        store::open("default").map(Self).map_err(unavailable)
    }

    fn balance(&self, account: &str) -> Result<Option<i64>, Failure> {
        let Some(value) = self.0.get(account).map_err(unavailable)? else { return Ok(None) };
        let balance = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        balance.map(Some).ok_or_else(|| Failure::Unavailable(format!("{account}: the balance is no number")))
    }

    fn set(&self, account: &str, balance: i64) -> Result<(), Failure> {
        self.0.set(account, balance.to_string().as_bytes()).map_err(unavailable)
    }

    fn close(&self, account: &str) -> Result<(), Failure> {
        self.0.delete(account).map_err(unavailable)
    }
}

fn unavailable(error: store::Error) -> Failure {
    Failure::Unavailable(error.to_string())
}

export!(Account);
