//! An index in a lower layer of an overlay, as in the image of a container, whose directory cannot be
//! renamed. The overlay needs a user namespace or root.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "common/child.rs"]
mod child;
mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::vectors::clustered;
use common::{assert_no_leftovers, assert_whole, build, names, options};
use onegen_index::{Index, IndexBuilder, move_directory};

const DIMENSION: usize = 8;

/// Runs a test again with an overlay mounted on `merged` in the directory that it is given, over what is in
/// `lower` there, if that is possible.
fn on_an_overlay(test: &str, home: &Path) {
    for dir in ["merged", "rw"] {
        fs::create_dir(home.join(dir)).unwrap();
    }
    let mount = "cd \"$1\" && mount -t tmpfs tmpfs rw && mkdir rw/upper rw/work && mount -t overlay \
        -o lowerdir=lower,upperdir=rw/upper,workdir=rw/work,userxattr overlay merged || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--",
        "sh",
        "-c",
        mount,
        "sh",
    ]);
    command.arg(home).arg(std::env::current_exe().unwrap());
    child::set(&mut command, test, home, &[]);
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() == Some(101) => panic!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        other => println!("skipped: no overlay can be mounted here: {other:?}"),
    }
}

#[test]
fn an_index_of_a_lower_layer_is_replaced_and_moved_all_the_same() {
    const TEST: &str = "an_index_of_a_lower_layer_is_replaced_and_moved_all_the_same";
    let Some((home, _)) = child::task::<u64>() else {
        let home = tempfile::tempdir().unwrap();
        for name in ["replaced", "moved", "continued"] {
            let dir = home.path().join("lower").join(name);
            build(&dir, options(DIMENSION), &clustered(1, 10, DIMENSION, 3));
        }
        on_an_overlay(TEST, home.path());
        return;
    };
    let merged = home.join("merged");
    let vectors = clustered(2, 20, DIMENSION, 3);
    // The directory cannot be renamed: this test shows something.
    let renamed = fs::rename(merged.join("replaced"), merged.join("other"));
    assert_eq!(
        renamed.unwrap_err().kind(),
        std::io::ErrorKind::CrossesDevices
    );

    let replaced = merged.join("replaced");
    build(&replaced, options(DIMENSION), &vectors);
    assert_eq!(Index::open(&replaced).unwrap().passages(), 20);
    assert_whole(&replaced);
    assert_no_leftovers(&replaced);

    let moved = merged.join("moved-away");
    move_directory(&merged.join("moved"), &moved).unwrap();
    assert_eq!(Index::open(&moved).unwrap().passages(), 10);
    assert_whole(&moved);

    // A build that is continued replaces it too.
    let continued = merged.join("continued");
    let (mut builder, _) = IndexBuilder::resume(&continued, options(DIMENSION), "job").unwrap();
    builder.add(&common::passage(1), &vectors[..1]).unwrap();
    builder.save_progress(&common::ingested(1)).unwrap();
    builder.finish().unwrap();
    assert_eq!(Index::open(&continued).unwrap().passages(), 1);
    assert_no_leftovers(&continued);
    assert_eq!(names(&merged), ["continued", "moved-away", "replaced"]);
}
