//! What fuzzing has found, and seeds that it began with: each must be survived. `test/fuzz/README.md` tells how to find more.

#[path = "fuzz/lib.rs"]
mod fuzz;

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

/// A test for each corpus, under its name.
macro_rules! corpora {
    ($($name:ident => $target:path,)+) => { $(
        #[test]
        fn $name() {
            replay(stringify!($name), $target);
        }
    )+ };
}

corpora! {
    frames => fuzz::frames::any,
    extensions => fuzz::frames::extensions,
    tcp_options => fuzz::frames::tcp_options,
    fragments => fuzz::frames::fragments,
    dhcp => fuzz::gateway::dhcp,
    dhcpv6 => fuzz::gateway::dhcpv6,
    ndp => fuzz::gateway::ndp,
    stream => fuzz::stream::stream,
    netlink => fuzz::kernel::netlink,
    control => fuzz::texts::control,
    pesto => fuzz::texts::pesto,
    ports => fuzz::texts::ports,
    resolv => fuzz::texts::resolv,
    arguments => fuzz::texts::arguments,
    tcp => fuzz::tcp::tcp,
    engine => fuzz::engine::engine,
    broker => fuzz::broker::broker,
    errors => fuzz::errors::errors,
    engine_card => fuzz::engine::engine_card,
    inbound => fuzz::inbound::inbound,
    respond => fuzz::respond::respond,
    ndppd => fuzz::respond::ndppd,
    engine_answer => fuzz::respond::engine_answer,
    vhost_messages => fuzz::vhost::messages,
    vhost_rings => fuzz::vhost::rings,
}
