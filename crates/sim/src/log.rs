//! What production code logs, as lines of the trace.
//!
//! Owns a `tracing` subscriber that writes the events of this crate's production code into the
//! trace of the running simulation. No real time is in it. openraft's own events are left out:
//! they print instants as wall-clock times, and there are thousands a second.

use std::fmt::{self, Write as _};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// Where production code is in this crate.
const PRODUCTION: [&str; 4] =
    ["quorate_sim::agent", "quorate_sim::controller", "quorate_sim::raft", "quorate_sim::session"];
/// Its composition, and what stands in for the rest.
const STAND_INS: [&str; 2] = ["quorate_sim::node", "quorate_sim::database"];

struct Log;

fn wanted(metadata: &Metadata<'_>) -> bool {
    let ours = |prefix: &&str| metadata.target().starts_with(prefix);
    metadata.is_event()
        && *metadata.level() <= Level::INFO
        && (PRODUCTION.iter().any(&ours) || STAND_INS.iter().any(ours))
}

/// Installs the subscriber for this process. Does nothing the second time.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only where a test has installed another one: then that one is meant.
        drop(tracing::subscriber::set_global_default(Log));
    });
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // No span is wanted, so none is made: see `wanted`.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let target = event.metadata().target();
        let place = target.strip_prefix("quorate_sim::").unwrap_or(target);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR ",
            Level::WARN => "WARN ",
            _ => "",
        };
        crate::trace(|| format!("log {level}{place}: {}{}", line.message, line.fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
