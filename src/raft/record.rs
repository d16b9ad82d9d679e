//! Records: how a value lies in the database.
//!
//! Owns the checksum of every value. It covers the key as well, so that a value under a wrong key
//! is noticed, and it is ours, so that damage is noticed also where the database tolerates it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kv::{Batch, Error, KvEngine, Space};

const CHECKSUM_BYTES: usize = 4;

fn checksum(space: Space, key: &[u8], value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[space.tag()]);
    let crc = crc32c::crc32c_append(crc, key);
    crc32c::crc32c_append(crc, value)
}

/// Names a place for an error.
fn place(space: Space, key: &[u8]) -> String {
    match (space, <[u8; 8]>::try_from(key)) {
        (Space::Log, Ok(index)) => format!("log entry {}", u64::from_be_bytes(index)),
        _ => format!("{space:?} {:?}", String::from_utf8_lossy(key)),
    }
}

/// `value` with its checksum before it.
pub fn seal(space: Space, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    raw.extend_from_slice(&checksum(space, key, value).to_le_bytes());
    raw.extend_from_slice(value);
    raw
}

/// The value of what [`seal`] made. [`Error::Corrupt`] where the checksum does not match.
pub fn unseal<'a>(space: Space, key: &[u8], raw: &'a [u8]) -> Result<&'a [u8], Error> {
    let corrupt =
        |reason: &str| Error::Corrupt { what: place(space, key), reason: reason.to_owned() };
    let (head, value) =
        raw.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(|| corrupt("it is too short"))?;
    if u32::from_le_bytes(*head) != checksum(space, key, value) {
        return Err(corrupt("its checksum does not match"));
    }
    Ok(value)
}

/// Serialises `value` as JSON.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::Io(format!("a value cannot be serialised: {e}")))
}

/// Reads a sealed JSON value.
pub fn decode<T: DeserializeOwned>(space: Space, key: &[u8], raw: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(unseal(space, key, raw)?).map_err(|e| Error::Corrupt {
        what: place(space, key),
        reason: format!("it is no value of this version: {e}"),
    })
}

/// Adds a sealed JSON value to `batch`.
pub fn put<T: Serialize>(
    batch: &mut Batch,
    space: Space,
    key: &[u8],
    value: &T,
) -> Result<(), Error> {
    batch.put(space, key, seal(space, key, &encode(value)?));
    Ok(())
}

/// Reads a sealed JSON value from `engine`.
pub fn get<T: DeserializeOwned>(
    engine: &dyn KvEngine,
    space: Space,
    key: &[u8],
) -> Result<Option<T>, Error> {
    engine.get(space, key)?.map(|raw| decode(space, key, &raw)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let raw = seal(Space::Log, b"k", b"value");
        assert_eq!(unseal(Space::Log, b"k", &raw).unwrap(), b"value");
        assert!(unseal(Space::Meta, b"k", &raw).is_err());
        assert!(unseal(Space::Log, b"j", &raw).is_err());
        for bit in 0..raw.len() * 8 {
            let mut bad = raw.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(unseal(Space::Log, b"k", &bad), Err(Error::Corrupt { .. })), "{bit}");
        }
        for length in 0..raw.len() {
            assert!(unseal(Space::Log, b"k", &raw[..length]).is_err(), "{length}");
        }
    }
}
