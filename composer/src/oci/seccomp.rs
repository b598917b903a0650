//! System calls that no shard in a container needs, and that have let others out of theirs.
//!
//! Images hold programs of all kinds, so what is not named is allowed, unlike for a native shard.

use super::error::OciError;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::thread::UnshareFlags;

/// Refused with `EPERM`. What needs a capability is refused anyway; these are the ones that a user namespace would give.
const REFUSED: [&str; 55] = [
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
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "quotactl_fd",
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
    "vmsplice",
];

/// The namespaces that `clone` makes. In a new user namespace a process has all capabilities over the others.
const NAMESPACES: [UnshareFlags; 7] = [
    UnshareFlags::NEWUSER,
    UnshareFlags::NEWNET,
    UnshareFlags::NEWNS,
    UnshareFlags::NEWPID,
    UnshareFlags::NEWIPC,
    UnshareFlags::NEWUTS,
    UnshareFlags::NEWCGROUP,
];
/// The protocol of netlink that tells of routes and addresses.
const ROUTE: u64 = 0;

pub(super) fn profile() -> Result<LinuxSeccomp, OciError> {
    profiled().map_err(|error| OciError::document("config.json", error))
}

fn profiled() -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls = vec![refused(&REFUSED, Errno::PERM, None)?];
    // What it is asked for stands in memory, where no filter can look; C libraries take `clone` then.
    calls.push(refused(&["clone3"], Errno::NOSYS, None)?);
    for flag in NAMESPACES {
        let args = vec![masked(0, flag.bits().into())?];
        calls.push(refused(&["clone"], Errno::PERM, Some(args))?);
    }
    // Of the sockets those of Unix, IP and netlink: of a virtual machine's, for one, no network namespace knows.
    let number = |family: AddressFamily| u64::from(family.as_raw());
    let [ip, ip6, netlink] = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK].map(number);
    let mut sockets: Vec<_> = (ip + 1..netlink)
        .filter(|family| *family != ip6)
        .map(|family| vec![is(0, LinuxSeccompOperator::ScmpCmpEq, family)])
        .collect();
    sockets.push(vec![is(0, LinuxSeccompOperator::ScmpCmpGt, netlink)]);
    // Of netlink not what tells of all sockets.
    sockets.push(vec![
        is(0, LinuxSeccompOperator::ScmpCmpEq, netlink),
        is(2, LinuxSeccompOperator::ScmpCmpNe, ROUTE),
    ]);
    for args in sockets {
        let args = args.into_iter().collect::<Result<_, _>>()?;
        calls.push(refused(&["socket"], Errno::PERM, Some(args))?);
    }
    LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActAllow).syscalls(calls).build()
}

fn refused(
    names: &[&str],
    errno: Errno,
    args: Option<Vec<LinuxSeccompArg>>,
) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let call = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActErrno);
    let call = call.errno_ret(errno.raw_os_error() as u32);
    match args {
        Some(args) => call.args(args).build(),
        None => call.build(),
    }
}

fn is(index: usize, op: LinuxSeccompOperator, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default().index(index).value(value).op(op).build()
}

fn masked(index: usize, flag: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let op = LinuxSeccompOperator::ScmpCmpMaskedEq;
    LinuxSeccompArgBuilder::default().index(index).value(flag).value_two(flag).op(op).build()
}
