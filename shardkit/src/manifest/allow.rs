//! The manifest's `isolation` of a component, and its `allow`.

use super::at::At;
use super::error::{Problem, did_you_mean};
use super::limits::check_count;
use super::raw;
use crate::application::{ALLOWED_MAX, Allow};
use shard_runtime::isolation::{is_syscall, syscall_names};
use std::path::{Component, Path, PathBuf};

/// What a component's shards may reach; `None` if they are not isolated.
pub(super) fn isolation(
    isolation: &At<String>,
    allow: Option<&At<raw::Allow>>,
) -> Result<Option<Allow>, Problem> {
    match (isolation.value.as_str(), allow) {
        ("native", None) => Ok(Some(Allow::default())),
        ("native", Some(allow)) => self::allow(&allow.value).map(Some),
        ("none", None) => Ok(None),
        ("none", Some(allow)) => {
            let what = "`allow` has no meaning where `isolation` is \"none\"";
            Err(Problem::at(&allow.span, what, "leave one of them out"))
        }
        (other, _) => {
            let cure = did_you_mean(other, "way", ["native", "none"].into_iter());
            Err(Problem::at(&isolation.span, format!("there is no isolation named `{other}`"), cure))
        }
    }
}

fn allow(raw: &raw::Allow) -> Result<Allow, Problem> {
    Ok(Allow {
        read: paths(&raw.read, "read")?,
        write: paths(&raw.write, "write")?,
        devices: paths(&raw.devices, "devices")?,
        network: raw.network,
        rdma: raw.rdma,
        syscalls: syscalls(&raw.syscalls)?,
    })
}

fn paths(raw: &[At<String>], key: &str) -> Result<Vec<PathBuf>, Problem> {
    if let Some(last) = raw.last() {
        check_count(&last.span, raw.len(), ALLOWED_MAX, &format!("paths in `{key}`"))?;
    }
    raw.iter().map(|path| self::path(path, key)).collect()
}

fn path(raw: &At<String>, key: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(&raw.value);
    let parts_are_names = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if path.parent().is_none() || !path.is_absolute() || !parts_are_names || raw.value.contains('\0') {
        let what = format!("`{key}` can't hold `{}`", raw.value);
        return Err(Problem::at(&raw.span, what, "write a whole path below `/`, without `..`"));
    }
    if path.starts_with("/proc") {
        let what = format!("`{key}` names `{}`, but a shard has a `/proc` of its own", raw.value);
        return Err(Problem::at(&raw.span, what, "leave it out"));
    }
    Ok(path.to_owned())
}

fn syscalls(raw: &[At<String>]) -> Result<Vec<String>, Problem> {
    if let Some(last) = raw.last() {
        check_count(&last.span, raw.len(), ALLOWED_MAX, "system calls in `syscalls`")?;
    }
    if let Some(unknown) = raw.iter().find(|name| !is_syscall(&name.value)) {
        let what = format!("there is no system call `{}`", unknown.value);
        return Err(Problem::at(
            &unknown.span,
            what,
            did_you_mean(&unknown.value, "system call", syscall_names()),
        ));
    }
    Ok(raw.iter().map(|name| name.value.clone()).collect())
}
