//! Keeps the host's processors from sleeping deeply, by the kernel's [quality of service for CPU latency].
//!
//! A processor that sleeps takes tens of microseconds to wake, and a virtual one more: its host may have given the real
//! one to somebody else. A composition wakes its shards one after the other, so it pays that several times.
//!
//! Invariant: the request holds while the [`Awake`] lives. The kernel takes it back when the descriptor is closed,
//! whatever ends the process.
//!
//! [quality of service for CPU latency]: https://docs.kernel.org/power/pm_qos_interface.html

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Where the kernel is asked how long a processor may take to wake.
pub const LATENCY_DEVICE: &str = "/dev/cpu_dma_latency";

/// See the head of this file.
pub(crate) struct Awake {
    _request: File,
}

impl Awake {
    /// Asks that no processor takes longer than this to wake. `None` if the kernel does not let us, which is logged:
    /// everything works, only later.
    pub(crate) fn ask(latency_us: u32) -> Option<Self> {
        match request(Path::new(LATENCY_DEVICE), latency_us) {
            Ok(request) => {
                tracing::info!(latency_us, "processors wake within");
                Some(Self { _request: request })
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "`idle_latency_us` is left out: {LATENCY_DEVICE} can't be written; run the composer as root, or give its user the device (`chown USER {LATENCY_DEVICE}`)"
                );
                None
            }
        }
    }
}

fn request(device: &Path, latency_us: u32) -> std::io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    // The kernel's format: 32 bits, signed, in the machine's order of bytes, in microseconds.
    file.write_all(&(latency_us as i32).to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_the_number_that_was_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _request = request(file.path(), 17).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), 17i32.to_ne_bytes());
    }

    #[test]
    fn without_the_device_there_is_no_request() {
        assert!(request(Path::new("/nowhere/cpu_dma_latency"), 0).is_err());
    }
}
