//! Every file under `cluster-configs/` is a configuration that is accepted, and the ones that
//! belong together agree where they must.

use std::path::{Path, PathBuf};

use quorate::config::{Config, Role, Synchronous};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster-configs")
}

fn load(name: &str) -> Config {
    Config::load(&root().join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// All `.toml` files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "toml") {
            out.push(path);
        }
    }
    out
}

#[test]
fn every_file_is_accepted() {
    let files = files(&root());
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let config = Config::load(&file).unwrap_or_else(|e| panic!("{e}"));
        // A member that joins later is the one thing that the examples are warned of.
        let odd = |key: &str| key.starts_with("member[") && key.ends_with(".name");
        assert!(config.warnings.iter().all(|w| odd(&w.key)), "{:?}", config.warnings);
    }
}

#[test]
fn the_demo_is_one_control_plane_of_three_nodes() {
    let nodes = ["local/n1.toml", "local/n2.toml", "local/n3.toml"].map(load);
    let [first, ..] = &nodes;
    for (i, c) in nodes.iter().enumerate() {
        assert_eq!(c.raft.node_id, Some(i as u64 + 1));
        assert_eq!(c.node.advertise.port(), 7401 + i as u16);
        assert_eq!(c.members[0].address.port(), 5501 + i as u16);
        assert!(c.node.advertise.is_loopback() && c.members[0].address.is_loopback());
        assert!(c.node.data_dir.starts_with(root().join("local")), "data beside the file");
        assert_eq!(c.control_plane, first.control_plane);
        assert_eq!(c.secret_file, first.secret_file);
        assert_eq!(c.controllers, first.controllers);
        assert_eq!(c.clusters, first.clusters);
        assert_eq!(c.timing, first.timing);
    }
    let members: Vec<_> = nodes.iter().map(|c| c.members[0].name.clone()).collect();
    assert_eq!(members, Vec::from_iter(first.clusters[0].bootstrap_members.clone()));
    let mut dirs: Vec<_> = nodes.iter().map(|c| &c.members[0].data_dir).collect();
    dirs.dedup();
    assert_eq!(dirs.len(), 3);
}

#[test]
fn the_examples_that_belong_together_agree() {
    let three = load("three-node.toml");
    let database = load("database-node.toml");
    assert_eq!(three.controllers, database.controllers);
    assert_eq!(three.clusters, database.clusters);
    assert_eq!(three.timing, database.timing);
    assert!(!database.has_role(Role::Controller));

    let two = load("two-nodes-and-witness.toml");
    let witness = load("control-plane-only.toml");
    assert_eq!(two.controllers, witness.controllers);
    assert_eq!(two.clusters, witness.clusters);
    assert!(!witness.has_role(Role::Agent));
    assert_eq!(two.clusters[0].synchronous, Synchronous::Quorum);
}
