//! Listeners and clients: the one place that opens ports and dials.
//!
//! Owns the settings of every gRPC connection (TCP_NODELAY, HTTP/2 keepalive, bounds) and the
//! identity that both sides show. Imports nothing of this crate.

// The place that talks to the real network.
#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

/// Metadata key: name of the control plane.
const CONTROL_PLANE: &str = "quorate-control-plane";
/// Metadata key: the token, a secret.
const TOKEN: &str = "quorate-token";

/// Why a listener or a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", in_use_hint(.source))]
    Bind {
        /// The address as it was given.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The address is none.
    #[error("{address:?} is not an address of the form host:port: {reason}")]
    Address {
        /// The text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The name or the token cannot be sent. The token is not shown.
    #[error("the {what} may contain only visible ASCII characters, and at least one")]
    Identity {
        /// Which of the two.
        what: &'static str,
    },
}

fn in_use_hint(e: &std::io::Error) -> &'static str {
    if e.kind() == std::io::ErrorKind::AddrInUse {
        " (is another hanode, or another program, running on this port?)"
    } else {
        ""
    }
}

/// Settings of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// How long connecting may take. A call's own deadline holds beside it.
    pub connect_timeout: Duration,
    /// Time without traffic after which the connection is probed.
    pub keepalive_interval: Duration,
    /// How long the probe's answer may take before the connection is given up.
    pub keepalive_timeout: Duration,
}

impl Default for ClientOptions {
    /// A dead host is noticed in 4 s, without traffic as well.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(2),
        }
    }
}

/// A channel to `address` (`host:port`) that connects when it is first used, and again after every
/// loss. It never dials here. Call it inside a tokio runtime.
pub fn lazy_channel(address: &str, options: &ClientOptions) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Error::Address { address: address.to_owned(), reason: e.to_string() })?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(options.keepalive_interval))
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// A server with the settings that all of ours have. Add services and serve on [`bind`]'s result.
pub fn server() -> Server {
    let options = ClientOptions::default();
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(options.keepalive_interval))
        .http2_keepalive_timeout(Some(options.keepalive_timeout))
}

/// A port that is listened on.
pub struct Listener {
    /// The address, with the port that the system chose where 0 was asked for.
    pub address: SocketAddr,
    /// Connections, for `serve_with_incoming`.
    pub incoming: TcpIncoming,
}

/// Listens on `address` (`host:port`). The error names the address.
pub async fn bind(address: &str) -> Result<Listener, Error> {
    let error = |source| Error::Bind { address: address.to_owned(), source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(error)?;
    let local = listener.local_addr().map_err(error)?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Listener { address: local, incoming })
}

/// What both sides of every internal call show: the name of the control plane, so that strangers
/// are told apart, and a token, so that they are kept out. As a client interceptor it adds them,
/// as [`IdentityCheck`] a server demands them.
#[derive(Clone)]
pub struct Identity {
    control_plane: MetadataValue<Ascii>,
    token: MetadataValue<Ascii>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("control_plane", &self.control_plane)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Checks that both can be sent as metadata.
    pub fn new(control_plane: &str, token: &str) -> Result<Self, Error> {
        let value = |what, text: &str| match text.parse::<MetadataValue<Ascii>>() {
            Ok(value) if !text.is_empty() => Ok(value),
            _ => Err(Error::Identity { what }),
        };
        let control_plane = value("name of the control plane", control_plane)?;
        let mut token = value("token", token)?;
        token.set_sensitive(true);
        Ok(Self { control_plane, token })
    }

    /// The check of a server.
    pub fn check(&self) -> IdentityCheck {
        IdentityCheck(self.clone())
    }
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(CONTROL_PLANE, self.control_plane.clone());
        metadata.insert(TOKEN, self.token.clone());
        Ok(request)
    }
}

/// Refuses calls that do not show the identity.
#[derive(Debug, Clone)]
pub struct IdentityCheck(Identity);

impl Interceptor for IdentityCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata();
        if metadata.get(CONTROL_PLANE) != Some(&self.0.control_plane) {
            return Err(Status::permission_denied("this is another control plane"));
        }
        let token = metadata.get(TOKEN).map(|t| t.as_encoded_bytes()).unwrap_or_default();
        if !equal(token, self.0.token.as_encoded_bytes()) {
            return Err(Status::unauthenticated("the token of the control plane does not match"));
        }
        Ok(request)
    }
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference = a.iter().zip(b).fold(0, |acc, (x, y)| std::hint::black_box(acc | (x ^ y)));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(client: &Identity, server: &Identity) -> Result<(), tonic::Code> {
        let request = client.clone().call(Request::new(())).unwrap();
        server.check().call(request).map(|_| ()).map_err(|s| s.code())
    }

    #[test]
    fn strangers_are_refused() {
        let ours = Identity::new("cp", "secret").unwrap();
        assert_eq!(pass(&ours, &ours), Ok(()));
        let other = Identity::new("other", "secret").unwrap();
        assert_eq!(pass(&other, &ours), Err(tonic::Code::PermissionDenied));
        for token in ["secres", "secretx", "s"] {
            let wrong = Identity::new("cp", token).unwrap();
            assert_eq!(pass(&wrong, &ours), Err(tonic::Code::Unauthenticated));
        }
        let bare = ours.check().call(Request::new(())).map_err(|s| s.code());
        assert_eq!(bare.err(), Some(tonic::Code::PermissionDenied));
    }

    #[test]
    fn the_token_is_never_shown() {
        let identity = Identity::new("cp", "hunter2").unwrap();
        assert!(!format!("{identity:?} {:?}", identity.check()).contains("hunter2"));
        let error = Identity::new("cp", "hunter2\n").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let address = first.address.to_string();
        let error = bind(&address).await.err().unwrap().to_string();
        assert!(error.contains(&address) && error.contains("another hanode"), "{error}");
    }

    #[tokio::test]
    async fn a_channel_does_not_dial() {
        assert!(lazy_channel("192.0.2.1:1", &ClientOptions::default()).is_ok());
        assert!(lazy_channel("not an address", &ClientOptions::default()).is_err());
    }
}
