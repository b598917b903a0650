//! Where a component's program is.

use crate::application::Program;
use rustix::fs::{Access, access};
use std::{env, ffi::OsStr, io, path::Path, path::PathBuf};

/// A component's program can't be run: no place where it may be holds an executable file.
#[derive(Debug, thiserror::Error)]
#[error("the program `{}` is not there ({}); build it first, or write its path in `program`, with a slash", .program.display(), list(.looked))]
pub struct ProgramError {
    /// As the manifest writes it.
    pub program: PathBuf,
    /// Where it was searched, in this order, and what is wrong with each place.
    pub looked: Vec<(PathBuf, ProgramTrouble)>,
}

/// What is wrong with one place where a program may be.
#[derive(Debug, thiserror::Error)]
pub enum ProgramTrouble {
    /// Nothing is there, or it can't be looked at.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something else than a file.
    #[error("not a file")]
    NotAFile,
    /// A file that this user may not execute.
    #[error("not executable")]
    NotExecutable,
}

fn list(looked: &[(PathBuf, ProgramTrouble)]) -> String {
    let places: Vec<String> =
        looked.iter().map(|(path, trouble)| format!("{}: {trouble}", path.display())).collect();
    places.join(", ")
}

/// Finds a component's program.
///
/// A path with a slash is taken relative to `folder`, the manifest's. A name without one is searched in `folder`, then
/// beside `current_exe` (the running program) and in the folder above that, because test programs run from a folder
/// below what they test, then in the folders of the environment variable `PATH`.
///
/// # Errors
/// If no such file is there, or none that this user may execute. The error names every place that was looked at.
pub fn resolve_program(
    program: &Program,
    folder: &Path,
    current_exe: &Path,
) -> Result<PathBuf, ProgramError> {
    find(&program.path, folder, current_exe, env::var_os("PATH").as_deref())
}

fn find(
    program: &Path,
    folder: &Path,
    current_exe: &Path,
    path: Option<&OsStr>,
) -> Result<PathBuf, ProgramError> {
    let mut looked = Vec::new();
    for candidate in candidates(program, folder, current_exe, path) {
        // Absolute, because the shard may be started from another folder.
        let candidate = std::path::absolute(&candidate).unwrap_or(candidate);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(trouble) => looked.push((candidate, trouble)),
        }
    }
    Err(ProgramError { program: program.to_owned(), looked })
}

fn candidates(program: &Path, folder: &Path, current_exe: &Path, path: Option<&OsStr>) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut folders = vec![folder.to_owned()];
    if !program.as_os_str().as_encoded_bytes().contains(&b'/') {
        folders.extend(
            current_exe
                .ancestors()
                .skip(1)
                .take(2)
                .filter(|folder| !folder.as_os_str().is_empty())
                .map(Path::to_owned),
        );
        // An empty entry would mean the current folder, which nobody chose knowingly.
        folders.extend(
            path.into_iter().flat_map(env::split_paths).filter(|folder| !folder.as_os_str().is_empty()),
        );
    }
    let mut candidates = Vec::new();
    for candidate in folders.into_iter().map(|folder| folder.join(program)) {
        if !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    candidates
}

fn check(candidate: &Path) -> Result<(), ProgramTrouble> {
    if !std::fs::metadata(candidate)?.is_file() {
        return Err(ProgramTrouble::NotAFile);
    }
    access(candidate, Access::EXEC_OK).map_err(|_| ProgramTrouble::NotExecutable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn executable(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_bare_name_is_searched_beside_the_manifest_then_beside_the_program_then_in_path() {
        let temp = tempfile::tempdir().unwrap();
        let [folder, deps, bin, path] =
            ["folder", "bin/deps", "bin", "path"].map(|name| temp.path().join(name));
        let find = || find(Path::new("arena"), &folder, &deps.join("shardctl"), Some(path.as_os_str()));
        assert!(find().is_err());
        for place in [&path, &bin, &deps, &folder] {
            let expected = executable(place, "arena");
            assert_eq!(find().unwrap(), expected);
        }
    }

    #[test]
    fn a_path_with_a_slash_is_relative_to_the_manifest_and_searched_nowhere_else() {
        let temp = tempfile::tempdir().unwrap();
        let expected = executable(temp.path(), "sub/arena");
        let elsewhere = temp.path().join("elsewhere");
        let find = |folder| {
            find(Path::new("sub/arena"), folder, &temp.path().join("shardctl"), Some(temp.path().as_os_str()))
        };
        assert_eq!(find(temp.path()).unwrap(), expected);
        assert_eq!(find(&elsewhere).unwrap_err().looked.len(), 1);
    }

    #[test]
    fn a_missing_program_names_every_place_and_what_is_wrong_with_it() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("bin/arena")).unwrap();
        fs::write(temp.path().join("arena"), "text").unwrap();
        let error =
            find(Path::new("arena"), temp.path(), &temp.path().join("bin/x"), Some(OsStr::new("/nowhere")));
        let error = error.unwrap_err().to_string();
        for part in
            ["`arena`", "arena: not executable", "bin/arena: not a file", "/nowhere/arena: No such file"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
}
