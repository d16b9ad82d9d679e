//! What a bad disk does.

use std::ops::ControlFlow;

use crate::input::Input;
use crate::raft::kv::{Batch, KvEngine, Space};
use crate::raft::kv_mem::KvMem;
use crate::raft::record;

/// What was done.
#[derive(Debug)]
pub enum Damage {
    /// A value has other bytes now.
    Changed {
        /// Where.
        place: String,
    },
    /// A key is gone.
    Lost {
        /// The part of the database.
        space: Space,
        /// The key.
        key: Vec<u8>,
    },
    /// A value was replaced by another one with a right checksum: no disk does that.
    Replaced,
}

/// Does one; `None` where it changes nothing.
pub fn inflict(input: &mut Input<'_>, engine: &KvMem) -> Option<Damage> {
    let mut all = Vec::new();
    for space in [Space::Meta, Space::Log, Space::State] {
        engine
            .range(space, &[], None, &mut |key, value| {
                all.push((space, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .ok()?;
    }
    if all.is_empty() {
        return None;
    }
    let (space, key, value) = input.pick(&all);
    let place = || format!("{space:?} {:?}", String::from_utf8_lossy(&key));
    let put = |value: Vec<u8>| {
        let mut batch = Batch::new();
        batch.put(space, key.clone(), value);
        engine.submit(batch, true, Box::new(|_| {}));
    };
    let changed = |new: Vec<u8>| {
        let differs = new != value;
        put(new);
        differs.then_some(Damage::Changed { place: place() })
    };
    match input.below(8) {
        0 | 1 => {
            let mut batch = Batch::new();
            batch.delete(space, key.clone());
            engine.submit(batch, true, Box::new(|_| {}));
            Some(Damage::Lost { space, key })
        }
        2 | 3 => {
            let bit = usize::from(input.byte()) << 8 | usize::from(input.byte());
            let bit = bit % (value.len() * 8).max(1);
            engine.flip_bit(space, &key, bit).then_some(Damage::Changed { place: place() })
        }
        4 => {
            let length = input.below(value.len().clamp(1, 256));
            changed(value.get(..length).unwrap_or_default().to_vec())
        }
        5 => {
            // The value of another place.
            let (_, _, other) = input.pick(&all);
            changed(other)
        }
        6 => changed(input.bytes(16).to_vec()),
        _ => {
            let n = usize::from(input.byte());
            put(record::seal(space, &key, input.bytes(n)));
            Some(Damage::Replaced)
        }
    }
}
