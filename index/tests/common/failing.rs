//! Simulates a failing disk: from some moment on the kernel refuses system calls.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::Gt;
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

pub(crate) const SYNC: &[i64] = &[libc::SYS_fsync, libc::SYS_fdatasync];
pub(crate) const WRITE: &[i64] = &[libc::SYS_write];
#[cfg(target_arch = "x86_64")]
pub(crate) const RENAME: &[i64] = &[libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const RENAME: &[i64] = &[libc::SYS_renameat, libc::SYS_renameat2];

fn filter(calls: &[i64]) -> BpfProgram {
    // Printing must not fail.
    let on_files = || {
        let condition = SeccompCondition::new(0, Dword, Gt, 2).unwrap();
        vec![SeccompRule::new(vec![condition]).unwrap()]
    };
    let on_files_only = |call: i64| {
        if WRITE.contains(&call) || SYNC.contains(&call) {
            on_files()
        } else {
            Vec::new()
        }
    };
    let rules: BTreeMap<_, _> = calls.iter().map(|&c| (c, on_files_only(c))).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EIO as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    filter.unwrap().try_into().unwrap()
}

/// From now on these calls fail with EIO in this thread, and in those that it starts.
pub(crate) fn fail(calls: &[i64]) {
    seccompiler::apply_filter(&filter(calls)).unwrap();
}

/// From now on these calls fail with EIO in the whole process, whatever it is doing.
pub(crate) fn fail_everywhere(calls: &[i64]) {
    seccompiler::apply_filter_all_threads(&filter(calls)).unwrap();
}
