//! Keeps the plugins of a running host up to date: takes in what comes into the plugin folder, and lets go of versions
//! that no saga needs.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::error;

use super::Registry;
use crate::store::Store;

/// Runs until it is dropped. `every`: how often the folder is looked at; `None`: never.
///
/// To be started once all stored sagas are held for: what they are pinned to would otherwise look superfluous.
pub async fn keep(plugins: Arc<Registry>, store: Arc<dyn Store>, every: Option<Duration>) {
    loop {
        let next_look = async {
            match every {
                Some(every) => sleep(every).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = next_look => {
                let plugins = plugins.clone();
                // A panic there is in the log already, and the next look may go well.
                let _ = spawn_blocking(move || plugins.look()).await;
            }
            () = plugins.let_go.notified() => {}
        }
        collect(&plugins, &*store).await;
    }
}

/// Lets go of what nobody needs, once nobody can come to need it by a crash.
async fn collect(plugins: &Arc<Registry>, store: &dyn Store) {
    let superfluous = plugins.superfluous();
    if superfluous.is_empty() {
        return;
    }
    // The sagas that used it have ended; on disk as well, or it must stay.
    if let Err(error) = store.barrier().durable().await {
        return error!("versions of plugins stay: {error}");
    }
    let plugins = plugins.clone();
    let _ = spawn_blocking(move || plugins.collect(superfluous)).await;
}
