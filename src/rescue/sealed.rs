//! Text that tells what it is, in which version, and whether it is whole.
//!
//! One line, `quorate-KIND VERSION sha256=HEX`, then JSON to the end. The checksum is over the JSON:
//! it finds damage and cut-off copies. It is no signature: whoever can write the file can forge it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Version of every kind.
const VERSION: u32 = 1;
/// Largest text that is read, in bytes.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is something else.
    #[error("it is no {kind} of a control plane: its first line is not `quorate-{kind} ...`")]
    Kind {
        /// What was expected.
        kind: &'static str,
    },
    /// It is of another version.
    #[error("it is of version {got}, and this program reads version {VERSION}")]
    Version {
        /// Of which.
        got: String,
    },
    /// The checksum does not match.
    #[error("it is damaged or cut off: its checksum does not match")]
    Damaged,
    /// The checksum matches, and the content does not make sense.
    #[error("its content is not understood: {0}")]
    Content(String),
}

fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes `value` as a text of this kind.
pub(super) fn seal<T: Serialize>(kind: &str, value: &T) -> Result<Vec<u8>, SealError> {
    let mut body =
        serde_json::to_vec_pretty(value).map_err(|e| SealError::Content(e.to_string()))?;
    body.push(b'\n');
    let mut text = format!("quorate-{kind} {VERSION} sha256={}\n", digest(&body)).into_bytes();
    text.append(&mut body);
    Ok(text)
}

/// Reads a text of this kind.
pub(super) fn unseal<T: DeserializeOwned>(kind: &'static str, text: &[u8]) -> Result<T, SealError> {
    let end = text.iter().position(|b| *b == b'\n').ok_or(SealError::Kind { kind })?;
    let (head, body) = text.split_at(end + 1);
    let head = String::from_utf8_lossy(head);
    let mut words = head.split_ascii_whitespace();
    if words.next() != Some(&format!("quorate-{kind}")) {
        return Err(SealError::Kind { kind });
    }
    match words.next() {
        Some(version) if version == VERSION.to_string() => {}
        other => return Err(SealError::Version { got: other.unwrap_or("-").to_owned() }),
    }
    if words.next() != Some(&format!("sha256={}", digest(body))) {
        return Err(SealError::Damaged);
    }
    serde_json::from_slice(body).map_err(|e| SealError::Content(e.to_string()))
}
