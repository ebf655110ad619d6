//! The background task of the catalog: publishes new files of the plugin folder, collects unreferenced versions, and
//! sweeps files that nobody needs.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{error, warn};

use super::registry::Registry;
use crate::store::Store;

/// How often lost components are looked for if the folder is not.
const LOST_EVERY: Duration = Duration::from_secs(1);

/// How often files that nobody needs are swept, from the start on. What a killed host has left is seldom more than one
/// file, and not all of it is surely unused at the start.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Runs until it is dropped. `every`: how often it reads the folder; `None`: never.
///
/// Start it after all stored sagas hold their versions ([`Registry::hold`]), which would look unreferenced before. If not
/// all of the sagas could be read, `all_are_held_for` is false: their versions are unknown, and nothing is collected.
pub async fn run(plugins: Arc<Registry>, store: Arc<dyn Store>, every: Option<Duration>, all_are_held_for: bool) {
    if !all_are_held_for {
        warn!("versions of plugins stay, whether sagas need them or not: not all unfinished sagas could be read");
    }
    let mut sweeps = interval(SWEEP_EVERY);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = sweeps.tick(), if all_are_held_for => {
                let plugins = plugins.clone();
                let _ = spawn_blocking(move || plugins.sweep()).await;
            }
            () = sleep(every.unwrap_or(LOST_EVERY)) => {
                let plugins = plugins.clone();
                // A panic is in the log already, and the next run may succeed.
                let _ = spawn_blocking(move || if every.is_some() { plugins.look() } else { plugins.look_for_lost() }).await;
            }
            () = plugins.released.notified() => {}
        }
        if all_are_held_for {
            collect(&plugins, &*store).await;
        }
    }
}

/// Collects unreferenced versions, once no crash can bring back a saga that needs them.
async fn collect(plugins: &Arc<Registry>, store: &dyn Store) {
    let unreferenced = plugins.unreferenced();
    if unreferenced.is_empty() {
        return;
    }
    // The ends of the sagas that used these versions must be on disk first.
    if let Err(error) = store.barrier().durable().await {
        return error!("versions of plugins stay: {error}");
    }
    let plugins = plugins.clone();
    let _ = spawn_blocking(move || plugins.collect(unreferenced)).await;
}
