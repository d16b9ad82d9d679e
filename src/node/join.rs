//! `hanode join`: makes a working configuration of a join file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::client_options;
use crate::clock::{BootClock, Clock as _};
use crate::config::{self, Config, JoinFile, JoinPlaces, Secret};
use crate::session::wire::{PollRequest, TransportError};
use crate::session::{self, Failure};
use crate::transport::{self, Identity};

/// How long is tried to reach a controller.
const GREET_MAX: Duration = Duration::from_secs(15);
const GREET_DEADLINE: Duration = Duration::from_secs(1);
const GREET_PAUSE: Duration = Duration::from_millis(200);

/// Why a node does not join. Nothing but what is said was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The join file.
    #[error(transparent)]
    Join(#[from] config::JoinError),
    /// It is too late.
    #[error(
        "the join file of node {name} has expired, and the control plane has given the node up: ask \
         for another one with `hactl node add`"
    )]
    Expired {
        /// The node.
        name: String,
    },
    /// What would be written makes no valid configuration.
    #[error("what would be written is no valid configuration; nothing was written: {0}")]
    Config(#[from] config::Error),
    /// Another configuration or secret is there.
    #[error("{path} is there already, with another content: {mend}")]
    There {
        /// Which.
        path: PathBuf,
        /// What to do.
        mend: &'static str,
    },
    /// A Raft store of another identity is there.
    #[error(
        "{path} holds a Raft store already: this host was a controller before. Move the directory \
         away, or choose another --data-dir; an identity is never used twice"
    )]
    Store {
        /// Which.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The controllers refuse the secret or the name.
    #[error(
        "controller {address} refuses this join file: {why}. It may be of another control plane, or \
         its secret may not be the one of the secret file there. Nothing was written"
    )]
    Refused {
        /// Who.
        address: String,
        /// What it says.
        why: String,
    },
    /// Nobody answers.
    #[error("no controller of the join file can be reached: {0}. Nothing was written")]
    Unreachable(String),
    /// The name or the secret cannot be sent.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// Checks everything, asks the controllers whether they know this secret, and writes secret and
/// configuration. Done already, it does nothing. Returns the configuration.
///
/// # Errors
/// See [`Error`].
pub async fn join(file: &Path, places: &JoinPlaces) -> Result<Config, Error> {
    let join = JoinFile::load(file)?;
    let text = join.config_text(places);
    let config = Config::parse(&text, &places.config)?;
    let there = read(&places.config)?;
    if there.as_deref() == Some(text.as_str()) {
        return Ok(config);
    }
    if there.is_some() {
        let mend = "move it away, or choose another place with --config";
        return Err(Error::There { path: places.config.clone(), mend });
    }
    let secret = format!("{}\n", join.secret.trim());
    let known = read(&places.secret)?;
    if known.as_ref().is_some_and(|known| known.trim() != join.secret.trim()) {
        let mend = "it is the secret of another control plane; choose another place with \
                    --secret-file";
        return Err(Error::There { path: places.secret.clone(), mend });
    }
    if BootClock.wall().0 > join.expires_unix_ms {
        return Err(Error::Expired { name: join.node.name });
    }
    let store = places.data_dir.join("raft");
    if fs::read_dir(&store).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Store { path: store });
    }
    greet(&join).await?;
    if known.is_none() {
        write(&places.secret, &secret, 0o600)?;
    }
    write(&places.config, &text, 0o644)?;
    Ok(config)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Writes a new file as a whole: it has its mode from the first moment, and its content once it has
/// its name.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let error = |source| Error::File { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(error)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = dir.join(name);
    let _ = fs::remove_file(&new);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(error)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(error)?;
    fs::rename(&new, path).map_err(error)?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(error)
}

/// Asks until one of the controllers has answered as one of this control plane.
async fn greet(join: &JoinFile) -> Result<(), Error> {
    let secret = Secret::new(&join.secret);
    let token = secret.map(|s| s.rpc_token(&join.control_plane));
    let token = token.as_ref().map_or("", |t| t.expose());
    let identity = Identity::new(&join.control_plane, token)?;
    let transport = session::grpc::GrpcTransport::new(identity, client_options());
    let addresses = join.controller.iter().map(|c| c.address.clone()).collect();
    let client = session::Client::new(Arc::new(transport), addresses);
    let request = PollRequest {
        clusters: Vec::new(),
        known_index: 0,
        wait_ms: 0,
        generation: crate::domain::generation::Generation::FIRST,
    };
    let end = tokio::time::Instant::now() + GREET_MAX;
    loop {
        match client.poll(&request, GREET_DEADLINE).await {
            // One that does not lead has let this node in, too.
            Ok(_) | Err(Failure::Session { .. }) => return Ok(()),
            Err(Failure::Transport { address, error: TransportError::Refused(why) }) => {
                return Err(Error::Refused { address, why });
            }
            Err(failure) if tokio::time::Instant::now() >= end => {
                return Err(Error::Unreachable(failure.to_string()));
            }
            Err(_) => tokio::time::sleep(GREET_PAUSE).await,
        }
    }
}
