//! The Landlock ruleset of a shard: the same files as its root shows, asked of the kernel a second time by another
//! mechanism, and no signals or abstract sockets beyond it.
//!
//! Invariant: what the kernel is too old for is left out; what it has is asked for.

use super::{Allow, LANDLOCK_ABI, Ruleset, landlock_abi, root::Root};
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset as Builder, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::io::Errno;

/// Makes the ruleset. The second is what the shard may do in the folders that are made for it alone, and which it adds
/// itself ([`super::enter`]).
pub(super) fn ruleset(allow: &Allow, root: &Root) -> Result<(Ruleset, u64), i32> {
    match landlock_abi() {
        0 => Err(Errno::NOSYS.raw_os_error()),
        known => build(allow, root, known).map_err(|_| Errno::INVAL.raw_os_error()),
    }
}

fn build(allow: &Allow, root: &Root, known: i32) -> Result<(Ruleset, u64), RulesetError> {
    let read = AccessFs::from_read(LANDLOCK_ABI);
    let all = AccessFs::from_all(LANDLOCK_ABI);
    let mut builder = Builder::default().handle_access(all)?.scope(Scope::from_all(LANDLOCK_ABI))?;
    if !allow.network {
        builder = builder.handle_access(AccessNet::from_all(LANDLOCK_ABI))?;
    }
    let mut ruleset = builder.create()?;
    for (path, writable) in root.seen() {
        // What is not there can't be reached either.
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if writable { all } else { read };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK_ABI) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
    }
    // The kernel refuses in a rule what it does not know.
    let own = all & AccessFs::from_all(ABI::from(known));
    Ok((ruleset.into(), own.bits()))
}
