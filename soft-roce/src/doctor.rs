//! What this machine has for RDMA and for guests, and what to type for what is missing.

use crate::{devices, host};
use std::path::Path;

/// Prints it.
pub fn doctor() {
    let row = |what: &str, finding: String| println!("{what:<24} {finding}");
    let names = devices::names();
    row("RDMA devices here", if names.is_empty() { "none: use guests".into() } else { names.join(" ") });
    let driver = Path::new("/sys/module/rdma_rxe").exists()
        || host::program_path("modprobe").is_some_and(|modprobe| {
            host::run(std::process::Command::new(modprobe).args(["--dry-run", "rdma_rxe"])).is_ok()
        });
    row(
        "soft-RoCE in this kernel",
        if driver { "yes: `soft-roce up` makes devices here".into() } else { "no: use guests".into() },
    );
    let missing = host::missing();
    row(
        "packages",
        if missing.is_empty() {
            "all there".into()
        } else {
            format!("missing; type: apt-get install --no-install-recommends {}", missing.join(" "))
        },
    );
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    row(
        "KVM",
        match kvm {
            Ok(_) => "there; whether it boots a guest is tried at the first boot".into(),
            Err(error) => format!("no ({error}): guests are emulated, about 10 s to boot"),
        },
    );
    match host::cache() {
        Ok(cache) => row("cache", cache.display().to_string()),
        Err(error) => row("cache", error.to_string()),
    }
}
