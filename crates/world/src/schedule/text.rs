//! Plans as text: JSON, with one fault a line, so that a person can read and change one.
//!
//! Owns the form. Plans that once failed are kept as files and run for ever, without the generator
//! that made them. Imports the plan.

use serde::Serialize;

use super::plan::Plan;

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not of this form.
    #[error("this is no plan: {0}")]
    Form(#[from] serde_json::Error),
    /// It makes no sense.
    #[error("the plan makes no sense: {0}")]
    Sense(String),
}

fn line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("plans hold plain data: {e}"))
}

fn list<T: Serialize>(values: &[T]) -> String {
    if values.is_empty() {
        return "[]".to_owned();
    }
    let lines: Vec<String> = values.iter().map(|v| format!("    {}", line(v))).collect();
    format!("[\n{}\n  ]", lines.join(",\n"))
}

/// The text of a plan.
pub fn write(plan: &Plan) -> String {
    let Plan { seed, horizon_ms, heal_ms, topology, settings, faults, operations } = plan;
    format!(
        "{{\n  \"seed\": {seed},\n  \"horizon_ms\": {horizon_ms},\n  \"heal_ms\": {heal_ms},\n  \
         \"topology\": {{\"nodes\": {}}},\n  \"settings\": {},\n  \"faults\": {},\n  \
         \"operations\": {}\n}}\n",
        list(&topology.nodes),
        line(settings),
        list(faults),
        list(operations)
    )
}

/// The plan of a text.
pub fn read(text: &str) -> Result<Plan, ReadError> {
    let plan: Plan = serde_json::from_str(text)?;
    match plan.problem() {
        Some(why) => Err(ReadError::Sense(why)),
        None => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, generate};
    use super::*;

    #[test]
    fn a_text_gives_its_plan_back() {
        for seed in 0..300 {
            let plan = generate(seed, Profile::All);
            let text = write(&plan);
            assert_eq!(read(&text).unwrap(), plan, "{text}");
            let faults = text.lines().filter(|l| l.starts_with("    {\"at_ms\"")).count();
            assert_eq!(faults, plan.faults.len() + plan.operations.len());
        }
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let good = write(&generate(1, Profile::All));
        assert!(matches!(read("{}"), Err(ReadError::Form(_))));
        let misspelt = good.replacen("\"heal_ms\"", "\"heals_ms\"", 1);
        assert!(matches!(read(&misspelt), Err(ReadError::Form(_))));
        let mut plan = generate(1, Profile::All);
        plan.horizon_ms = 0;
        assert!(plan.faults.is_empty() || matches!(read(&write(&plan)), Err(ReadError::Sense(_))));
    }
}
