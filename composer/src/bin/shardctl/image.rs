//! `shardctl image`: makes an OCI image of a component's program.

use crate::{Failure, Outcome};
use clap::{Args, Subcommand};
use shard_composer::oci::{Order, build};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make an image of a program and the libraries that it needs: an archive in image layout. The same files give the
    /// same image.
    Build(Build),
}

#[derive(Args)]
struct Build {
    /// The program.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Where the archive is written.
    #[arg(long, value_name = "PATH")]
    output: PathBuf,
    /// An argument that the program always gets, before those of the manifest.
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// A file that is to be beside the program.
    #[arg(long, value_name = "FILE")]
    include: Vec<PathBuf>,
}

impl Image {
    pub(crate) fn run(self) -> Outcome {
        let Verb::Build(Build { program, output, args, include }) = self.verb;
        let digest = build(&Order { program, args, include }, &output).map_err(Failure::usage)?;
        println!("{digest} {}", output.display());
        Ok(())
    }
}
