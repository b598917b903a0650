//! Which system calls a shard may make: a list of those that the runtime, the standard library and ordinary threads
//! need, and what a component adds by name.
//!
//! Three answers. What is on the list is done. What only an attacker asks for in here (tracing, mounting, namespaces,
//! the kernel's modules) kills the process: nothing that it would say afterwards is worth hearing. Everything else is
//! refused with `EPERM`: libraries probe for what they can do without, and go on. `clone3` is said not to be there
//! (`ENOSYS`): what it is asked for stands in memory, which no filter can read, and every C library then takes `clone`,
//! whose flags can be looked at.
//!
//! Invariant: a call that a component has not named and that is not on the list changes nothing outside the process.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::str::FromStr;
use syscalls::Sysno;

/// What every shard may call, whatever the arguments. Names that the processor's table does not have are left out.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    // Memory.
    "brk", "mmap", "munmap", "mprotect", "mremap", "msync", "mincore", "mlock", "mlock2", "munlock", "mlockall",
    "munlockall", "mbind", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "mseal", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "memfd_create",
    // Threads, and what they wait on.
    "futex", "futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "set_robust_list", "get_robust_list",
    "rseq", "membarrier", "set_tid_address", "gettid", "sched_yield", "sched_setaffinity", "sched_getaffinity",
    "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_getattr",
    "sched_setattr", "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "getcpu",
    "getpriority", "setpriority", "ioprio_get", "ioprio_set", "arch_prctl", "set_thread_area", "get_thread_area",
    // Processes below this one.
    "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "kill", "tkill", "tgkill",
    "pidfd_open", "pidfd_send_signal", "getpid", "getppid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid",
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "capget", "prlimit64",
    "getrlimit", "setrlimit", "getrusage", "times", "umask", "uname", "sysinfo", "getrandom", "seccomp",
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    // Signals.
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo", "sigaltstack", "signalfd", "signalfd4", "pause", "alarm",
    "restart_syscall",
    // Time.
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun",
    "timer_delete", "getitimer", "setitimer",
    // Descriptors.
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "lseek",
    "close", "close_range", "dup", "dup2", "dup3", "fcntl", "pipe", "pipe2", "poll", "ppoll", "select", "pselect6",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd",
    "eventfd2", "sendfile", "splice", "tee", "copy_file_range", "fsync", "fdatasync", "sync_file_range", "fadvise64",
    "readahead", "ftruncate", "flock",
    // The sockets that it was given, and pairs of its own.
    "sendmsg", "recvmsg", "sendto", "recvfrom", "sendmmsg", "recvmmsg", "shutdown", "getsockopt", "setsockopt",
    "getsockname", "getpeername",
    // Files, of which its root has only those that it may see.
    "open", "openat", "openat2", "creat", "stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs",
    "access", "faccessat", "faccessat2", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "readlink",
    "readlinkat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link",
    "linkat", "symlink", "symlinkat", "truncate", "chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes",
    "utimensat", "futimesat", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr",
];

/// What a component with a network may call besides.
const NETWORK: &[&str] = &["connect", "bind", "listen", "accept", "accept4"];

/// What nobody calls by chance.
#[rustfmt::skip]
const DEADLY: &[&str] = &[
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick",
    "mount_setattr", "open_by_handle_at", "setns", "unshare",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf", "reboot", "swapon",
    "swapoff", "acct", "quotactl", "quotactl_fd", "sethostname", "setdomainname", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "iopl", "ioperm", "add_key", "request_key", "keyctl", "migrate_pages", "move_pages",
];

/// What a shard may ask `madvise` for. Not `MADV_REMOVE`, which punches holes into shared memory, nor what pretends
/// that the memory is broken.
const ADVICE: &[i32] = &[
    libc::MADV_NORMAL,
    libc::MADV_RANDOM,
    libc::MADV_SEQUENTIAL,
    libc::MADV_WILLNEED,
    libc::MADV_DONTNEED,
    libc::MADV_FREE,
    libc::MADV_DONTFORK,
    libc::MADV_DOFORK,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_DONTDUMP,
    libc::MADV_DODUMP,
    libc::MADV_WIPEONFORK,
    libc::MADV_KEEPONFORK,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_POPULATE_READ,
    libc::MADV_POPULATE_WRITE,
];

/// What a shard may ask `prctl` for, besides a death signal, which is `SIGKILL` and stays so.
const PRCTL: &[i32] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_PDEATHSIG,
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_SET_CHILD_SUBREAPER,
    libc::PR_GET_CHILD_SUBREAPER,
    libc::PR_CAPBSET_READ,
    libc::PR_GET_SECCOMP,
    libc::PR_SET_SECCOMP,
    libc::PR_SET_VMA,
];

/// The kinds of socket that a component with a network may open, besides what tells of routes and addresses. No Unix
/// ones: those of the host have names that its network namespace knows.
const FAMILIES: &[i32] = &[libc::AF_INET, libc::AF_INET6];

/// The kinds of pair that a shard may make. Not datagrams: one can be sent to any name, connected or not.
const PAIRS: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];
/// The bits of a socket's type that say its kind.
const SOCK_TYPE_MASK: i32 = 0xf;

/// The flags of `clone` that make namespaces, a tracer's child, or a child that is someone else's.
const CLONE_FORBIDDEN: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_PTRACE
    | libc::CLONE_PARENT;

/// The flags with which a zygote forks a shard into namespaces of its own.
const FORK_FLAGS: i32 = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::CLONE_NEWUSER | libc::CLONE_NEWPID;

/// The name of every system call of this processor.
pub fn syscall_names() -> impl Iterator<Item = &'static str> {
    Sysno::iter().map(|call| call.name())
}

/// Whether this processor has a system call of this name.
pub fn is_syscall(name: &str) -> bool {
    Sysno::from_str(name).is_ok()
}

/// Compiles the filters. They are installed in this order, and the kernel takes the harshest answer.
pub(super) fn compile(
    added: &[String],
    network: bool,
    zygote: bool,
) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let number = |name: &str| Sysno::from_str(name).ok().map(|call| i64::from(call.id()));
    let is_added = |name: &&str| added.iter().any(|added| added == name);

    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let names = ALWAYS.iter().chain(if network { NETWORK } else { &[] }).copied();
    allowed.extend(names.filter_map(number).map(|number| (number, vec![])));
    let mut prctl = any_of(0, PRCTL)?;
    prctl.push(SeccompRule::new(vec![is(0, libc::PR_SET_PDEATHSIG)?, is(1, libc::SIGKILL)?])?);
    let pair = |kind| SeccompRule::new(vec![is(0, libc::AF_UNIX)?, masked(1, SOCK_TYPE_MASK, kind)?]);
    let mut sometimes = vec![
        ("madvise", any_of(2, ADVICE)?),
        ("prctl", prctl),
        ("socketpair", PAIRS.into_iter().map(pair).collect::<Result<_, _>>()?),
        // Not to type into a terminal, which stands for the user who started the composer.
        ("ioctl", vec![SeccompRule::new(vec![not(1, libc::TIOCSTI)?, not(1, libc::TIOCLINUX)?])?]),
    ];
    let mut clone = vec![SeccompRule::new(vec![masked(0, CLONE_FORBIDDEN, 0)?])?];
    if zygote {
        clone.push(SeccompRule::new(vec![masked(0, CLONE_FORBIDDEN | FORK_FLAGS, FORK_FLAGS)?])?);
    }
    sometimes.push(("clone", clone));
    if network {
        let mut families = any_of(0, FAMILIES)?;
        families.push(SeccompRule::new(vec![is(0, libc::AF_NETLINK)?, is(2, libc::NETLINK_ROUTE)?])?);
        sometimes.push(("socket", families));
    }
    if zygote {
        // A forked shard has all capabilities in its own namespace until it lets them go.
        allowed.extend(["capset"].into_iter().filter_map(number).map(|number| (number, vec![])));
        let drop = [libc::PR_CAPBSET_DROP, libc::PR_CAP_AMBIENT];
        sometimes
            .iter_mut()
            .find(|(name, _)| *name == "prctl")
            .expect("it was put there")
            .1
            .extend(any_of(0, &drop)?);
    }
    allowed.extend(sometimes.into_iter().filter_map(|(name, rules)| Some((number(name)?, rules))));
    // What a component names it may call with any arguments.
    allowed.extend(added.iter().filter_map(|name| number(name)).map(|number| (number, vec![])));

    let deadly = DEADLY.iter().copied().filter(|name| !is_added(name)).filter_map(number);
    let absent = ["clone3"].into_iter().filter(|name| !is_added(name)).filter_map(number);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let mut programs = vec![program(allowed, refused, SeccompAction::Allow)?];
    programs.push(program(always(deadly), SeccompAction::Allow, SeccompAction::KillProcess)?);
    // Of two errors the kernel gives that of the filter that came last.
    programs.push(program(always(absent), SeccompAction::Allow, missing)?);
    Ok(programs)
}

/// Compiles what a forked shard takes on besides its zygote's filter: it is none itself.
pub(super) fn compile_for_fork() -> Result<BpfProgram, seccompiler::BackendError> {
    let number = |name: &str| Sysno::from_str(name).ok().map(|call| i64::from(call.id()));
    let forks = vec![SeccompRule::new(vec![masked(0, libc::CLONE_NEWUSER, libc::CLONE_NEWUSER)?])?];
    let rules = [("clone", forks), ("capset", vec![])];
    let rules = rules.into_iter().filter_map(|(name, rules)| Some((number(name)?, rules))).collect();
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, matching, arch)?.try_into()
}

fn always(numbers: impl Iterator<Item = i64>) -> BTreeMap<i64, Vec<SeccompRule>> {
    numbers.map(|number| (number, vec![])).collect()
}

/// One rule for each value that an argument of 32 bits may have.
fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.iter().map(|value| SeccompRule::new(vec![is(argument, *value)?])).collect()
}

fn is(argument: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u32 as u64)
}

fn not(argument: u8, value: impl TryInto<u32>) -> Result<SeccompCondition, seccompiler::BackendError> {
    let value = value.try_into().unwrap_or(u32::MAX);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value.into())
}

fn masked(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    let how = SeccompCmpOp::MaskedEq(mask as u32 as u64);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value as u32 as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_on_the_lists_is_a_system_call_and_on_one_list_only() {
        for name in ALWAYS.iter().chain(NETWORK).chain(DEADLY) {
            // Other processors have fewer.
            assert!(!cfg!(target_arch = "x86_64") || is_syscall(name) || NEWER.contains(name), "{name}");
            assert!(
                ALWAYS.contains(name) as u8 + DEADLY.contains(name) as u8 <= 1,
                "{name} is on both lists"
            );
        }
    }

    /// Known to newer tables only.
    const NEWER: &[&str] = &[];

    #[test]
    fn no_filter_is_longer_than_the_kernel_takes() {
        for zygote in [false, true] {
            for program in compile(&["fallocate".into()], true, zygote).unwrap() {
                assert!(program.len() < 4096, "{}", program.len());
            }
        }
    }
}
