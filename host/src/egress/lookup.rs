//! Looking up the addresses of a name.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;

/// Looks up the addresses of a name; their ports say nothing.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Asks the system's resolver.
pub fn system() -> Lookup {
    let ask = async |name: String| Ok(tokio::net::lookup_host((name, 0)).await?.collect());
    Arc::new(move |name| Box::pin(ask(name)))
}

/// For tests: gives these answers one after another, and then none. Also returns how often it was asked.
#[cfg(test)]
pub fn fickle(answers: &'static [&'static [&'static str]]) -> (Lookup, Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_| {
        let answer = answers.get(count.fetch_add(1, Relaxed)).copied().unwrap_or_default();
        let addresses = answer.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
        Box::pin(std::future::ready(Ok(addresses)))
    });
    (lookup, asked)
}
