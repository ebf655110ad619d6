//! Keeps the plugins of a running host up to date: takes in what comes into the plugin folder, and lets go of versions
//! that no saga needs.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::{error, warn};

use super::Registry;
use crate::store::Store;

/// How often lost components are looked for if nothing else is.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// Runs until it is dropped. `every`: how often the folder is looked at; `None`: never.
///
/// To be started once all stored sagas are held for: what they are pinned to would otherwise look unreferenced. If not
/// all of them could be read, nobody knows what they need, and nothing is let go of.
pub async fn keep(plugins: Arc<Registry>, store: Arc<dyn Store>, every: Option<Duration>, all_are_held_for: bool) {
    if !all_are_held_for {
        warn!("versions of plugins stay, whether sagas need them or not: not all unfinished sagas could be read");
    }
    loop {
        tokio::select! {
            () = sleep(every.unwrap_or(LOST_EVERY)) => {
                let plugins = plugins.clone();
                // A panic there is in the log already, and the next look may go well.
                let _ = spawn_blocking(move || if every.is_some() { plugins.look() } else { plugins.look_for_lost() }).await;
            }
            () = plugins.released.notified() => {}
        }
        if all_are_held_for {
            collect(&plugins, &*store).await;
        }
    }
}

/// Lets go of what nobody needs, once nobody can come to need it by a crash.
async fn collect(plugins: &Arc<Registry>, store: &dyn Store) {
    let unreferenced = plugins.unreferenced();
    if unreferenced.is_empty() {
        return;
    }
    // The sagas that used it have ended; on disk as well, or it must stay.
    if let Err(error) = store.barrier().durable().await {
        return error!("versions of plugins stay: {error}");
    }
    let plugins = plugins.clone();
    let _ = spawn_blocking(move || plugins.collect(unreferenced)).await;
}
