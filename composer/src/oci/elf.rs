//! What a program needs to run: its dynamic loader and its libraries.
//!
//! Which libraries, the loader itself says (`LOADER --list PROGRAM`), because nobody else knows where it looks. It maps the
//! program for that, and runs nothing of it.

use super::error::OciError;
use goblin::elf::{Elf, header};
use oci_spec::image::Arch;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// See the head of this file.
pub(super) struct Needs {
    pub(super) arch: Arch,
    /// `None` for a program that is linked statically.
    pub(super) loader: Option<PathBuf>,
    /// The libraries' names and where they are, by name.
    pub(super) libraries: Vec<(String, PathBuf)>,
}

pub(super) fn needs(program: &Path, content: &[u8]) -> Result<Needs, OciError> {
    let wrong = |what: String| OciError::Program { path: program.to_owned(), what };
    let elf =
        Elf::parse(content).map_err(|error| wrong(format!("it is no program that Linux runs: {error}")))?;
    if !matches!(elf.header.e_type, header::ET_EXEC | header::ET_DYN) {
        return Err(wrong("it is an object file, and no program".into()));
    }
    let arch = match elf.header.e_machine {
        header::EM_X86_64 => Arch::Amd64,
        header::EM_AARCH64 => Arch::ARM64,
        other => return Err(wrong(format!("it is for a machine that is not known here ({other})"))),
    };
    let loader = elf.interpreter.map(PathBuf::from);
    let libraries = match &loader {
        Some(loader) if !elf.libraries.is_empty() => list(loader, program)?,
        _ => Vec::new(),
    };
    Ok(Needs { arch, loader, libraries })
}

/// Asks the loader.
fn list(loader: &Path, program: &Path) -> Result<Vec<(String, PathBuf)>, OciError> {
    let wrong = |what: String| OciError::Program { path: program.to_owned(), what };
    let asked = Command::new(loader).arg("--list").arg(program).stdin(Stdio::null()).output();
    let said =
        asked.map_err(|error| wrong(format!("its loader {} does not run: {error}", loader.display())))?;
    if !said.status.success() {
        let error = String::from_utf8_lossy(&said.stderr);
        return Err(wrong(format!("a library that it needs is not there: {}", error.trim())));
    }
    let mut libraries = Vec::new();
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f…)`; what has no arrow is the kernel's, or the loader.
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let place = rest.rsplit_once(" (").map_or(rest, |(place, _)| place);
        if place == "not found" {
            return Err(wrong(format!("the library {name} that it needs is not there; install it")));
        }
        if Path::new(name) != loader {
            let name = name.rsplit('/').next().unwrap_or(name);
            libraries.push((name.to_owned(), PathBuf::from(place)));
        }
    }
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}
