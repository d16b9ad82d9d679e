//! `host:port`, as it is written in a configuration.
//!
//! Owns [`Address`]. Imports the domain's parse error only.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::domain::types::ParseError;

const RULE: &str = "host:port with an IPv4 address, a host name, or an IPv6 address in brackets, \
                    and a port from 1 to 65535";

/// A TCP address that others are told: an IP address or a host name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host: an IP address without brackets, or a name in lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as an IP address, where it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// True for an address that only this machine can reach.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// True for `0.0.0.0` and `[::]`: good for listening, meaningless for a peer.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

/// A host name by RFC 1123: labels of letters, digits and `-`. Names that end in a number are
/// refused, since they are mistyped IPv4 addresses.
fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(label)
        && !host.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseError { what: "address", value: s.to_owned(), rule: RULE };
        let (host, port) = s.rsplit_once(':').ok_or_else(error)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let port: u16 = port.parse().map_err(|_| error())?;
        let host = if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            v6.parse::<Ipv6Addr>().map_err(|_| error())?.to_string()
        } else if host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host) {
            host.to_ascii_lowercase()
        } else {
            return Err(error());
        };
        if port == 0 {
            return Err(error());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for good in ["127.0.0.1:7401", "[::1]:5432", "db-1.example.org:65535", "localhost:1"] {
            let address: Address = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
        }
        assert_eq!("DB1:5432".parse::<Address>().unwrap().host(), "db1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "::1:5432",
            "[::1]",
            "[1]:2",
            "300.0.0.1:1",
            "10.0.0:1",
            "-a:1",
            "a b:1",
            "a..b:1",
            "a/b:1",
            "*:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        let a = |s: &str| s.parse::<Address>().unwrap();
        assert!(a("127.0.0.2:1").is_loopback() && a("[::1]:1").is_loopback());
        assert!(a("localhost:1").is_loopback() && !a("10.0.0.1:1").is_loopback());
        assert!(a("0.0.0.0:1").is_unspecified() && a("[::]:1").is_unspecified());
    }
}
