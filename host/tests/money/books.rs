//! What must be true when everybody has gone home.

use futures_util::{StreamExt, stream};

use crate::bank::{ACCOUNTS, Bank, OPENING, Promise};

/// Checks every promise and every account.
pub async fn audit(bank: &Bank) {
    let promises = bank.promises();
    let ends: Vec<Promise> = stream::iter(promises.iter())
        .map(async |(gid, (_, promise))| {
            let end = bank.end(gid).await;
            assert!(*promise == Promise::Accepted || *promise == end, "{gid} was told to be {promise:?}, is {end:?}");
            end
        })
        .buffered(32)
        .collect()
        .await;
    let mut expected = [OPENING; ACCOUNTS];
    for ((transfer, _), _) in promises.values().zip(&ends).filter(|(_, end)| **end == Promise::Succeeded) {
        expected[transfer.from] -= transfer.amount;
        expected[transfer.to] += transfer.amount;
    }
    let balances: Vec<i64> =
        stream::iter(0..ACCOUNTS).map(|account| bank.balance(account)).buffered(16).collect().await;
    assert_eq!(balances, expected, "a transfer was applied twice, in part, or not at all");
    assert_eq!(balances.iter().sum::<i64>(), OPENING * i64::try_from(ACCOUNTS).unwrap());
    assert!(balances.iter().all(|balance| *balance >= 0), "overdrawn: {balances:?}");

    let succeeded = ends.iter().filter(|end| **end == Promise::Succeeded).count();
    println!("{} transfers, {succeeded} succeeded", ends.len());
    assert!(succeeded > 100 && ends.len() - succeeded > 20, "too little of one kind to tell anything");
}
