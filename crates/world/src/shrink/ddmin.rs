//! Leaves items of a list out, as long as the rest fails.
//!
//! Owns the search over lists. Imports nothing.

/// Leaves out what is not needed: halves first, then smaller and smaller parts, until no single item
/// can go. `fails` says whether a list still fails, or `None` where it may not be asked any more.
/// Returns whether it came to its end.
pub(super) fn ddmin<T: Clone>(
    items: &mut Vec<T>,
    mut fails: impl FnMut(&[T]) -> Option<bool>,
) -> bool {
    if items.is_empty() {
        return true;
    }
    match fails(&[]) {
        None => return false,
        Some(true) => {
            items.clear();
            return true;
        }
        Some(false) => {}
    }
    let mut parts = 2;
    while items.len() >= 2 {
        let size = items.len().div_ceil(parts);
        let mut left_out = false;
        // The later ones first: what comes after the failure never matters.
        let mut end = items.len();
        while end > 0 {
            let begin = end.saturating_sub(size);
            let rest: Vec<T> = items[..begin].iter().chain(&items[end..]).cloned().collect();
            if !rest.is_empty() {
                match fails(&rest) {
                    None => return false,
                    Some(true) => {
                        *items = rest;
                        left_out = true;
                    }
                    Some(false) => {}
                }
            }
            end = begin;
        }
        if size == 1 && !left_out {
            break;
        }
        parts = if left_out { 2.max(parts - 1) } else { (parts * 2).min(items.len()) };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(count: u32, needed: &[u32]) -> (Vec<u32>, u32, bool) {
        let mut items: Vec<u32> = (0..count).collect();
        let mut runs = 0;
        let complete = ddmin(&mut items, |rest| {
            runs += 1;
            (runs <= 500).then(|| needed.iter().all(|n| rest.contains(n)))
        });
        (items, runs, complete)
    }

    #[test]
    fn exactly_what_is_needed_is_left() {
        for needed in [vec![], vec![0], vec![99], vec![3, 77], vec![1, 2, 50, 98], vec![98, 99]] {
            let (items, runs, complete) = run(100, &needed);
            assert_eq!(items, needed);
            assert!(complete && runs < 250, "{runs} runs for {needed:?}");
        }
        assert_eq!(run(1, &[0]).0, [0]);
        assert_eq!(run(0, &[]).0, [0; 0]);
    }

    #[test]
    fn what_was_found_is_kept_when_no_run_is_left() {
        let mut items: Vec<u32> = (0..64).collect();
        let mut runs = 0;
        let complete = ddmin(&mut items, |rest| {
            runs += 1;
            (runs <= 4).then(|| rest.contains(&5) && rest.contains(&60))
        });
        assert!(!complete);
        assert!(items.contains(&5) && items.contains(&60));
    }
}
