//! The join file: what a new node is given to come into a control plane.
//!
//! Owns its form, and the configuration that is made of it. It holds the shared secret, so it is as
//! secret as that: mode 0600, and to be removed once the node runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Address, Learned, secret};
use crate::domain::types::NodeName;

/// What a join file says. Its `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFile {
    /// Name of the control plane.
    pub control_plane: String,
    /// The shared secret, as it stands in the secret file.
    pub secret: String,
    /// After this the node is not added any more; milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// The new node.
    pub node: JoiningNode,
    /// Times of section `[raft]`.
    #[serde(default)]
    pub raft: BTreeMap<String, u64>,
    /// Times of section `[timing]`.
    #[serde(default)]
    pub timing: BTreeMap<String, u64>,
    /// The controllers that are there.
    pub controller: Vec<Learned>,
}

impl std::fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinFile")
            .field("control_plane", &self.control_plane)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// The new node of a join file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoiningNode {
    /// Its id in the Raft group.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `host:port` where the others reach it.
    pub address: String,
    /// Its roles.
    pub roles: Vec<String>,
}

/// What the machine says for itself.
#[derive(Debug, Clone)]
pub struct JoinPlaces {
    /// Where the configuration is written.
    pub config: PathBuf,
    /// Where the secret is written.
    pub secret: PathBuf,
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Where it listens; by default its address, where that is an IP address, else all of the
    /// machine's with the port of the address.
    pub listen: Option<SocketAddr>,
    /// Further sections, such as `[[cluster]]` and `[[member]]`.
    pub sections: String,
}

/// Why a join file cannot be used. The secret is never shown.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It cannot be read, or others can read it too.
    #[error("{0}")]
    File(super::Problem),
    /// It is no join file.
    #[error("{file}: this is no join file of `hactl node add`: {problem}")]
    Syntax {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value in it is wrong.
    #[error("{file}: {field}: {problem}")]
    Field {
        /// Which file.
        file: PathBuf,
        /// Which field.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl JoinFile {
    /// Reads and checks a join file.
    ///
    /// # Errors
    /// It cannot be read, others have rights on it, or its content makes no sense.
    pub fn load(path: &Path) -> Result<Self, JoinError> {
        let text = secret::read_private(path, "--file").map_err(JoinError::File)?;
        let file = || path.to_owned();
        // The parser's message shows no value; the line that it could show may hold the secret.
        let join: Self = toml::from_str(&text).map_err(|e| JoinError::Syntax {
            file: file(),
            problem: e.message().trim().replace('\n', ", "),
        })?;
        let field = |field, problem: String| JoinError::Field { file: file(), field, problem };
        if secret::Secret::new(&join.secret).is_none() {
            return Err(field("secret", "it is too short".to_owned()));
        }
        NodeName::new(join.node.name.as_str()).map_err(|e| field("node.name", e.to_string()))?;
        NodeName::new(join.control_plane.as_str())
            .map_err(|e| field("control_plane", e.to_string()))?;
        let all = join.controller.iter().map(|c| &c.address).chain([&join.node.address]);
        for address in all {
            address.parse::<Address>().map_err(|e| field("address", e.to_string()))?;
        }
        if join.controller.is_empty() {
            return Err(field("controller", "it names no controller to join".to_owned()));
        }
        Ok(join)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// Never for values that came from a control plane.
    pub fn text(&self) -> Result<String, String> {
        let body = toml::to_string(self).map_err(|e| e.to_string())?;
        Ok(format!(
            "# SECRET: whoever has this file has the secret of the control plane. Take it to the new \
             node,\n# run `hanode join --file FILE` there, and remove it.\n{body}"
        ))
    }

    /// The configuration of the new node.
    pub fn config_text(&self, places: &JoinPlaces) -> String {
        let text = |s: &str| toml::Value::String(s.to_owned()).to_string();
        let path = |p: &Path| text(&p.to_string_lossy());
        let Self { node, .. } = self;
        let roles: Vec<String> = node.roles.iter().map(|r| text(r)).collect();
        let mut out = format!(
            "# Written by `hanode join`.\ncontrol_plane = {}\nsecret_file = {}\n\n[node]\n\
             name = {}\nroles = [{}]\nlisten = {}\nadvertise = {}\ndata_dir = {}\n\n[raft]\n\
             node_id = {}\njoin = true\n",
            text(&self.control_plane),
            path(&places.secret),
            text(&node.name),
            roles.join(", "),
            text(&self.listen(places)),
            text(&node.address),
            path(&places.data_dir),
            node.id,
        );
        let pairs = |out: &mut String, pairs: &BTreeMap<String, u64>| {
            for (key, value) in pairs {
                let _ = writeln!(out, "{key} = {value}");
            }
        };
        pairs(&mut out, &self.raft);
        out.push_str("\n[timing]\n");
        pairs(&mut out, &self.timing);
        let own = Learned { id: node.id, name: node.name.clone(), address: node.address.clone() };
        for c in self.controller.iter().chain([&own]) {
            let (name, address) = (text(&c.name), text(&c.address));
            let _ = write!(
                out,
                "\n[[controller]]\nid = {}\nname = {name}\naddress = {address}\n",
                c.id
            );
        }
        if !places.sections.trim().is_empty() {
            let _ = write!(out, "\n{}\n", places.sections.trim());
        }
        out
    }

    fn listen(&self, places: &JoinPlaces) -> String {
        if let Some(listen) = places.listen {
            return listen.to_string();
        }
        match self.node.address.parse::<SocketAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => {
                let port = self.node.address.rsplit_once(':').map_or("", |(_, port)| port);
                format!("0.0.0.0:{port}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Config;

    fn join() -> JoinFile {
        let learned =
            |id: u64| Learned { id, name: format!("n{id}"), address: format!("10.0.0.{id}:7400") };
        JoinFile {
            control_plane: "demo".to_owned(),
            secret: "0123456789abcdef".repeat(4),
            expires_unix_ms: 1_800_000_000_000,
            node: JoiningNode {
                id: 4,
                name: "n4".to_owned(),
                address: "10.0.0.4:7400".to_owned(),
                roles: vec!["controller".to_owned()],
            },
            raft: [("heartbeat_ms".to_owned(), 100)].into(),
            timing: [("ttl_ms".to_owned(), 3000)].into(),
            controller: vec![learned(1), learned(2)],
        }
    }

    fn places(dir: &Path) -> JoinPlaces {
        JoinPlaces {
            config: dir.join("hanode.toml"),
            secret: dir.join("secret"),
            data_dir: dir.join("data \"x\""),
            listen: None,
            sections: String::new(),
        }
    }

    #[test]
    fn a_join_file_comes_back_and_makes_a_valid_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n4.join");
        std::fs::write(&path, join().text().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = JoinFile::load(&path).unwrap_err().to_string();
        assert!(refused.contains("mode 0644"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(JoinFile::load(&path).unwrap(), join());
        assert!(!format!("{:?}", join()).contains("0123456789"));

        let places = places(dir.path());
        let config = Config::parse(&join().config_text(&places), &places.config).unwrap();
        assert_eq!(config.raft.node_id, Some(4));
        assert!(config.raft.join);
        assert_eq!(config.node.listen.to_string(), "10.0.0.4:7400");
        assert_eq!(config.node.data_dir, places.data_dir);
        assert_eq!(config.controllers.len(), 3);
        let mut named = join();
        named.node.address = "db-4.example.org:7400".to_owned();
        let config = Config::parse(&named.config_text(&places), &places.config).unwrap();
        assert_eq!(config.node.listen.to_string(), "0.0.0.0:7400");
    }

    #[test]
    fn a_wrong_join_file_is_refused_without_its_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let refused = |join: &JoinFile| {
            std::fs::write(&path, join.text().unwrap()).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = JoinFile::load(&path).unwrap_err().to_string();
            assert!(!error.contains("0123456789"), "{error}");
            error
        };
        let with = |change: fn(&mut JoinFile)| {
            let mut join = join();
            change(&mut join);
            join
        };
        assert!(refused(&with(|j| j.secret = "short".to_owned())).contains("secret"));
        assert!(refused(&with(|j| j.node.name = "N 4".to_owned())).contains("node.name"));
        assert!(refused(&with(|j| j.node.address = "nowhere".to_owned())).contains("address"));
        assert!(refused(&with(|j| j.controller.clear())).contains("names no controller"));
        std::fs::write(&path, "secret = \"0123456789\"\nx = 1\n").unwrap();
        let error = JoinFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("no join file") && !error.contains("0123456789"), "{error}");
    }
}
