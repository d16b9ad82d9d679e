//! Figures: series of measurements, tables for people, JSON for programs.

use std::path::PathBuf;

use serde_json::{Value, json};

/// Measurements of one thing, in one unit.
#[derive(Debug, Clone, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// The value that a share `q` of all does not exceed; not a number where there is none.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        if sorted.is_empty() {
            return f64::NAN;
        }
        // Nearest rank: it is always a value that was measured.
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    /// The middle one; of an even number the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        match n {
            0 => f64::NAN,
            _ if n % 2 == 1 => sorted[n / 2],
            _ => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The greatest.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The figures and every measurement.
    pub fn json(&self) -> Value {
        json!({
            "count": self.count(), "median": self.median(), "min": self.min(),
            "p99": self.quantile(0.99), "max": self.max(), "values": self.0,
        })
    }
}

/// A table for people. The first column is text, the others are numbers.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub fn new(title: &str, columns: &[&str]) -> Table {
        let head = columns.iter().map(|c| (*c).to_owned()).collect();
        Table { title: title.to_owned(), rows: vec![head] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it to standard output.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!("\n{}", self.title);
        for (i, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let fill = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
                line += &if c == 0 { format!("{cell}{fill}") } else { format!("  {fill}{cell}") };
            }
            println!("  {}", line.trim_end());
            if i == 0 {
                println!("  {}", "-".repeat(widths.iter().sum::<usize>() + 2 * (columns - 1)));
            }
        }
    }
}

/// A target, and whether it is met.
pub fn verdict(value: f64, target: f64) -> &'static str {
    match value <= target {
        true => "yes",
        false => "NO",
    }
}

/// A number of milliseconds as seconds.
pub fn seconds(ms: f64) -> String {
    if ms.is_nan() { "-".to_owned() } else { format!("{:.3} s", ms / 1000.0) }
}

/// Writes the results of a benchmark as `NAME.json` into the directory `QUORATE_BENCH_JSON`; where
/// that is not set, into `bench` beside the programs that were built.
pub fn write_json(name: &str, value: &Value) {
    let built = || {
        let exe = std::env::current_exe().ok()?;
        Some(exe.parent()?.parent()?.join("bench"))
    };
    let dir = std::env::var_os("QUORATE_BENCH_JSON").map(PathBuf::from).or_else(built);
    let Some(dir) = dir else { return };
    let file = dir.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    match std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, text)) {
        Ok(()) => println!("\nResults as JSON: {}", file.display()),
        Err(e) => println!("\n{} cannot be written: {e}", file.display()),
    }
}
