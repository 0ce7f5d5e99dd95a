//! What fuzzing has found, and seeds that it began with: each must be survived. `test/fuzz/README.md` tells how to find more.

#[path = "fuzz/vhost.rs"]
mod vhost;

use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("test/fuzz/corpora").join(name);
    let mut count = 0;
    for file in directory.read_dir().expect("a corpus") {
        let path = file.expect("a file of the corpus").path();
        eprintln!("{}", path.display());
        target(&std::fs::read(path).expect("a file of the corpus"));
        count += 1;
    }
    assert!(count > 3, "the corpus {name} has {count} files only");
}

#[test]
fn vhost_messages() {
    replay("vhost_messages", vhost::messages);
}

#[test]
fn vhost_rings() {
    replay("vhost_rings", vhost::rings);
}
