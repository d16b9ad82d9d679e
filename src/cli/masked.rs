//! Values that may hold a secret, left out of what is shown.

use serde_json::Value;

const SECRET: [&str; 7] =
    ["password", "passwd", "passphrase", "secret", "token", "conninfo", "_command"];
const HIDDEN: &str = "(not shown; see --secrets)";

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // The path of a file is none.
    !key.ends_with("_file") && SECRET.iter().any(|word| key.contains(word))
}

/// Hides the values of settings by whose name they may be secrets, and the options of HBA lines.
pub(super) fn mask(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(mask),
        Value::Object(fields) => {
            let mut named = ["key", "name"].iter().filter_map(|k| fields.get(*k)?.as_str());
            let secret_named = named.any(is_secret);
            for (key, value) in fields {
                let of_named = secret_named && !matches!(key.as_str(), "key" | "name");
                match value {
                    Value::String(text) if is_secret(key) || of_named => HIDDEN.clone_into(text),
                    Value::Array(lines) if key == "hba" => lines.iter_mut().for_each(mask_line),
                    other => mask(other),
                }
            }
        }
        _ => {}
    }
}

/// Options of a method, such as ldapbindpasswd, come last and have the form name=value.
fn mask_line(line: &mut Value) {
    let Value::String(text) = line else { return };
    if text.contains('=') {
        let kept: Vec<&str> = text.split_whitespace().take_while(|f| !f.contains('=')).collect();
        *text = format!("{} {HIDDEN}", kept.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_a_secret_is_hidden_wherever_it_is() {
        let mut value = json!({
            "parameters": {"work_mem": "4MB", "archive_command": "s3 --key hunter2"},
            "hba": ["host all all 10.0.0.0/8 ldap ldapbindpasswd=hunter2", "local all all peer"],
            "roles": [{"name": "token_reader", "password_file": "/etc/app"}],
            "pending": [{"name": "primary_conninfo", "wanted": "password=hunter2", "first": ""}],
        });
        mask(&mut value);
        let text = value.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        for kept in ["4MB", "local all all peer", "10.0.0.0/8 ldap", "primary_conninfo"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
