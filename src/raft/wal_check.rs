//! A check of RocksDB's write-ahead log before RocksDB reads it.
//!
//! RocksDB takes a last record that runs past the end of the file for one that a crash cut short,
//! and drops it in silence. A flipped bit in a length looks the same, and would drop entries that
//! were acknowledged; so would a zeroed page. This check tells the two apart: behind a record that
//! was cut short there is nothing valid any more. The format: file `db/log_format.h` of RocksDB.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

use super::kv::Error;

const BLOCK_BYTES: usize = 32 << 10;
/// Checksum (4), length (2), type (1).
const HEADER_BYTES: usize = 7;

/// Checks every log file in `dir`. A directory that does not exist is fine.
pub fn check_dir(dir: &Path) -> Result<(), Error> {
    let io = |path: &Path, e: std::io::Error| Error::Open {
        path: path.display().to_string(),
        reason: e.to_string(),
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(dir, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| io(dir, e))?.path();
        if path.extension() != Some(OsStr::new("log")) {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|e| io(&path, e))?;
        check(&bytes)
            .map_err(|reason| Error::Corrupt { what: path.display().to_string(), reason })?;
    }
    Ok(())
}

/// One record at the head of `rest`: its whole length where it is valid.
fn valid_record(rest: &[u8], length: usize) -> Option<usize> {
    let (head, body) = rest.split_at_checked(HEADER_BYTES)?;
    let payload = body.get(..length)?;
    let stored = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let known = matches!(head[6], 1..=4 | 9 | 10 | 130);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[6..7]), payload);
    let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
    (known && stored == masked).then_some(HEADER_BYTES + length)
}

fn length_of(rest: &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes([*rest.get(4)?, *rest.get(5)?])))
}

/// Checks the content of one log file.
pub(crate) fn check(file: &[u8]) -> Result<(), String> {
    for (number, block) in file.chunks(BLOCK_BYTES).enumerate() {
        let start = number * BLOCK_BYTES;
        let last = start + block.len() == file.len();
        let mut at = 0;
        while block.len() - at >= HEADER_BYTES {
            let rest = &block[at..];
            let length = length_of(rest).unwrap_or_default();
            if let Some(size) = valid_record(rest, length) {
                at += size;
                continue;
            }
            if file[start + at..].iter().all(|b| *b == 0) {
                return Ok(()); // preallocated, never written
            }
            // Only a record that runs past the end of the file may have been cut short.
            let cut = last && HEADER_BYTES + length > rest.len();
            if !cut {
                return Err(format!("the record at byte {} is invalid", start + at));
            }
            if valid_record(rest, rest.len() - HEADER_BYTES).is_some() {
                return Err(format!("the record at byte {} has a wrong length", start + at));
            }
            let follows = (1..rest.len()).find(|i| {
                let rest = &rest[*i..];
                length_of(rest).and_then(|length| valid_record(rest, length)).is_some()
            });
            return match follows {
                Some(i) => Err(format!(
                    "the record at byte {} is invalid, but one at byte {} is valid",
                    start + at,
                    start + at + i
                )),
                None => Ok(()),
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[1]), payload);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        let mut bytes = masked.to_le_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.push(1);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_torn_tail_is_fine_and_damage_is_not() {
        let good = [record(b"first"), record(b"second entry"), record(b"third")].concat();
        for length in 0..=good.len() {
            assert_eq!(check(&good[..length]), Ok(()), "{length}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad).is_err(), "bit {bit}");
        }
        let mut padded = good.clone();
        padded.extend([0; 4096]);
        assert_eq!(check(&padded), Ok(()));
        let hole = [record(b"first"), vec![0; 64], record(b"third")].concat();
        assert!(check(&hole).is_err());
    }
}
