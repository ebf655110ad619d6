//! Why a component cannot become the current version of a plugin.

use std::{io, path::PathBuf};

use crate::plugin::{component, name::InvalidName};

/// Versions of one plugin; each is held in memory. Far more than sagas that come to an end need.
pub const VERSIONS_MAX: usize = 100;

/// Plugins of one host.
pub const PLUGINS_MAX: usize = 1000;

/// Why a component was not published, and the mend.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Component(#[from] component::error::Error),
    /// Sagas could not rely on it.
    #[error("cannot be kept for the sagas that will use it: {0}: see to the data folder of the host")]
    NotKept(io::Error),
    #[error("cannot be put into the plugin folder: {0}: see to that folder of the host")]
    NotPlaced(io::Error),
    #[error(
        "the plugin has {VERSIONS_MAX} versions already, as many as there may be: `GET /api/v1/plugins/NAME` shows for how \
         many unfinished sagas each is kept; when some of those have ended, put it there again"
    )]
    TooManyVersions,
    #[error("the host has {PLUGINS_MAX} plugins already, as many as there may be: remove some from its plugin folder")]
    TooManyPlugins,
}

impl PublishError {
    /// Whether the same component may be published later as it is.
    pub(super) fn is_of_system(&self) -> bool {
        match self {
            Self::Component(error) => error.is_of_system(),
            Self::NotKept(_) | Self::NotPlaced(_) => true,
            Self::TooManyVersions | Self::TooManyPlugins => false,
        }
    }
}

impl From<InvalidName> for PublishError {
    fn from(error: InvalidName) -> Self {
        Self::Component(error.into())
    }
}

/// A file of the plugin folder that was not published.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", file.display())]
pub struct Refused {
    /// The file, or the folder if that cannot be read.
    pub file: PathBuf,
    pub error: PublishError,
}
