//! System calls that no shard in a container needs, and that have let others out of theirs.

use super::error::OciError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder,
};

/// Refused with `EPERM`. What needs a capability is refused anyway; these are the ones that a user namespace would give.
const REFUSED: [&str; 52] = [
    "acct",
    "add_key",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mknod",
    "mknodat",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "name_to_handle_at",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "reboot",
    "request_key",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

pub(super) fn profile() -> Result<LinuxSeccomp, OciError> {
    let wrong = |error: oci_spec::OciSpecError| OciError::document("config.json", error);
    let refused: LinuxSyscall = LinuxSyscallBuilder::default()
        .names(REFUSED.map(String::from))
        .action(LinuxSeccompAction::ScmpActErrno)
        .build()
        .map_err(wrong)?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .syscalls(vec![refused])
        .build()
        .map_err(wrong)
}
