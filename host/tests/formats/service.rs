//! The service that the unfinished sagas of the fixtures wait for.

use axum::{Router, routing::post};
use tokio::{net::TcpListener, sync::Mutex, sync::MutexGuard, task::JoinHandle};

/// The address that stands in the fixtures: of the loopback range, and used by nothing else.
const ADDRESS: &str = "127.83.1.7:21731";

static IN_USE: Mutex<()> = Mutex::const_new(());

/// Serves the address, and accepts everything. One test at a time.
pub struct Service {
    serving: JoinHandle<()>,
}

impl Service {
    pub async fn turn() -> MutexGuard<'static, ()> {
        IN_USE.lock().await
    }

    pub async fn start(turn: MutexGuard<'static, ()>) -> Self {
        let listener = TcpListener::bind(ADDRESS).await.unwrap();
        let accept = || async {};
        let router = Router::new().route("/pay", post(accept)).route("/refund", post(accept));
        let serving = tokio::spawn(async move {
            // Ends after the listener, which lives until this task is dropped: somewhat later than the service.
            let _turn = turn;
            axum::serve(listener, router).await.unwrap();
        });
        Self { serving }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
