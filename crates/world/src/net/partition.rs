//! Shapes of partitions: which directions they cut.
//!
//! Pure. A caller cuts each of the directions with [`super::cut`], and mends them the same way.

use crate::exec::MachineId;

type Directions = Vec<(MachineId, MachineId)>;

fn all_but(machines: &[MachineId], open: impl Fn(usize, usize) -> bool) -> Directions {
    let n = machines.len();
    let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    let cut = pairs.filter(|&(a, b)| a != b && !open(a, b));
    cut.map(|(a, b)| (machines[a], machines[b])).collect()
}

/// Machines hear those of their own group alone.
pub fn split(groups: &[&[MachineId]]) -> Directions {
    let of: Vec<usize> = groups.iter().enumerate().flat_map(|(i, g)| vec![i; g.len()]).collect();
    all_but(&groups.concat(), |a, b| of[a] == of[b])
}

/// One machine hears none of the others, and they do not hear it.
pub fn isolate(one: MachineId, all: &[MachineId]) -> Directions {
    all_but(all, |a, b| all[a] != one && all[b] != one)
}

/// Two groups that do not hear each other, and one machine that both hear, and that hears both.
pub fn bridge(left: &[MachineId], middle: MachineId, right: &[MachineId]) -> Directions {
    split(&[left, right]).into_iter().filter(|(a, b)| *a != middle && *b != middle).collect()
}

/// Every machine hears its two neighbours alone, in the order given and around its end. It cuts
/// nothing between fewer than four.
pub fn ring(all: &[MachineId]) -> Directions {
    let n = all.len();
    all_but(all, |a, b| (a + 1) % n == b || (b + 1) % n == a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::World;

    #[test]
    fn shapes_cut_what_they_say() {
        let world = World::new(0);
        let m: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| world.machine(name, 0)).collect();
        let [a, b, c, d] = m[..] else { unreachable!() };
        assert_eq!(split(&[&[a], &[b]]), [(a, b), (b, a)]);
        assert_eq!(split(&[&[a, b], &[c, d]]).len(), 8);
        assert_eq!(isolate(b, &[a, b, c]), [(a, b), (b, a), (b, c), (c, b)]);
        assert_eq!(bridge(&[a], b, &[c]), [(a, c), (c, a)]);
        assert_eq!(ring(&m), [(a, c), (b, d), (c, a), (d, b)]);
        assert_eq!(ring(&[a, b, c]), []);
    }
}
