//! Accounts that hold money. A transfer is a saga of two steps: out of one account, into another.
//!
//! What a step does is in its payload; amounts are integers, in the smallest unit of the currency:
//!
//! - `{"account": "alice", "amount": -30}` moves 30 out of the account, and a positive amount moves money in. Rejected if
//!   there is no such account, or not enough in it.
//! - `{"account": "alice", "open": 100}` opens the account with 100 in it, as a step of a saga of its own. Rejected if
//!   there is such an account already.
//! - `{"account": "alice"}` asks for the balance and changes nothing.
//!
//! The output is the account as it is then: `{"account": "alice", "balance": 70}`.
//!
//! There is no lock here, no mark of what was done already, no check for duplicates. What a call reads and writes takes
//! effect together with its answer, or not at all, and the host calls `cancel` for a `try` that took effect, and until
//! that has taken effect: each exactly once. So the code says what a bank does, and nothing else.

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

use exports::wasaga::saga::branch::{Call, Failure, Guest};
use serde::Deserialize;
use serde_json::json;
use wasi::keyvalue::store::{self, Bucket};

struct Account;

impl Guest for Account {
    fn try_(call: Call) -> Result<Option<String>, Failure> {
        let Request { account, wish } = Request::read(&call.payload).map_err(Failure::Rejected)?;
        let accounts = Accounts::open()?;
        let before = accounts.balance(&account)?;
        let balance = wish.apply(before).map_err(|why| Failure::Rejected(format!("{account}: {why}")))?;
        if before != Some(balance) {
            accounts.set(&account, balance)?;
        }
        Ok(Some(json!({ "account": account, "balance": balance }).to_string()))
    }

    /// Takes the amount back, even if somebody has spent it meanwhile: the account is overdrawn then. An account that
    /// was opened is closed again, unless others have left money (or debts) in it.
    fn cancel(call: Call, tried: Option<String>) -> Result<(), Failure> {
        // A `try` that rejects a payload, or has not succeeded for another reason, leaves nothing to take back.
        let (Some(_), Ok(Request { account, wish })) = (tried, Request::read(&call.payload)) else { return Ok(()) };
        let (Wish::Open(amount) | Wish::Move(amount)) = wish else { return Ok(()) };
        let accounts = Accounts::open()?;
        let before = accounts.balance(&account)?.unwrap_or(0);
        let balance = before.checked_sub(amount);
        let balance = balance.ok_or_else(|| Failure::Unavailable(format!("{account}: the balance would overflow")))?;
        match wish {
            Wish::Open(_) if balance == 0 => accounts.close(&account),
            _ => accounts.set(&account, balance),
        }
    }
}

/// What somebody wants of an account.
struct Request {
    account: String,
    wish: Wish,
}

enum Wish {
    Open(i64),
    Move(i64),
    Ask,
}

/// Bytes of an account's name: less than the store allows for a key.
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
        // An array would pass for a `Payload` too, its elements for the members in order.
        if !payload.trim_start().starts_with('{') {
            return Err("invalid request: the payload is no JSON object".into());
        }
        let payload: Payload = serde_json::from_str(payload).map_err(|error| format!("invalid request: {error}"))?;
        let wish = match (payload.amount, payload.open) {
            (Some(0), None) => return Err("invalid request: the amount is 0".into()),
            (Some(amount), None) => Wish::Move(amount),
            (None, Some(amount)) if amount < 0 => return Err("invalid request: opened with less than 0".into()),
            (None, Some(amount)) => Wish::Open(amount),
            (None, None) => Wish::Ask,
            (Some(_), Some(_)) => return Err("invalid request: both amount and open".into()),
        };
        if payload.account.is_empty() || payload.account.len() > NAME_BYTES_MAX {
            return Err(format!("invalid request: an account's name has from 1 to {NAME_BYTES_MAX} bytes"));
        }
        Ok(Self { account: payload.account, wish })
    }
}

impl Wish {
    /// The balance afterwards, or why it is rejected. `None` is an account that does not exist.
    fn apply(&self, balance: Option<i64>) -> Result<i64, &'static str> {
        match (self, balance) {
            (Self::Open(amount), None) => Ok(*amount),
            (Self::Open(_), Some(_)) => Err("there is such an account already"),
            (_, None) => Err("there is no such account"),
            (Self::Ask, Some(balance)) => Ok(balance),
            (Self::Move(amount), Some(balance)) => match balance.checked_add(*amount) {
                None => Err("the balance would overflow"),
                Some(after) if *amount < 0 && after < 0 => Err("insufficient funds"),
                Some(after) => Ok(after),
            },
        }
    }
}

/// Where the accounts are kept: a bucket of the plugin, with the balance in decimal under the account's name.
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
