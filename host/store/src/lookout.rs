//! The thread that looks at the disk's room now and then.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use crate::shared::{Shared, Watch};

/// Between two looks. A second of writing is far less than what is kept free.
const INTERVAL: Duration = Duration::from_secs(1);

impl Shared {
    /// Looks at the disk, and says so when it has become short, or is no longer.
    pub(crate) fn look_at_room(&self) {
        let dir = &self.settings.dir;
        let room = match self.settings.disk.room(dir) {
            Ok(room) => room,
            Err(error) => {
                tracing::debug!(%error, dir = %dir.display(), "cannot tell how much of the disk is free");
                return;
            }
        };
        let was_short = self.room.is_short();
        let shortage = room.shortage(self.settings.free_bytes_min, was_short);
        self.room.store(&room, shortage);
        match shortage {
            Some(shortage) if !was_short => tracing::error!(
                dir = %dir.display(), %shortage,
                "the disk is nearly full: new sagas are refused until there is room, those under way go on; free space on \
                 it, or lower `free_bytes_min` under [store]"
            ),
            None if was_short => {
                tracing::info!(dir = %dir.display(), free_bytes = room.free_bytes, "the disk has room again");
            }
            _ => {}
        }
    }
}

/// The thread that looks, until `stop` is dropped.
pub(crate) fn run(shared: &Arc<Shared>, stop: &Receiver<()>) {
    let _watch = Watch { shared: Arc::clone(shared), name: "room" };
    while matches!(stop.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout)) {
        shared.look_at_room();
    }
}
