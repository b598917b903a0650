//! Whether a host can meet what a manifest asks for.

use super::error::Problem;
use super::{Manifest, ManifestError, quantity};

/// What a host has for shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Cores that shards may run on. One of them is never given away: the composer and the shards without cores of
    /// their own run there.
    pub cores: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// GPU memory, in bytes.
    pub gpu_memory_bytes: u64,
}

impl Manifest {
    /// Checks that `host` alone can run the manifest's warm shards.
    ///
    /// Three resources count: cores of their own (at most the host's cores less one), memory, and GPU memory. Of each,
    ///
    /// 1. no single shard may need more than the host has, be it warm or not, and
    /// 2. all warm shards together may not need more than the host has.
    ///
    /// Shards beyond the warm ones are launched on demand; that there is room for them is checked when it happens.
    ///
    /// # Errors
    /// The first need, in the manifest's order, that goes beyond the host.
    pub fn check_needs(&self, host: &Host) -> Result<(), ManifestError> {
        let has = [u64::from(host.cores.saturating_sub(1)), host.memory_bytes, host.gpu_memory_bytes];
        let mut warm_need = [0_u64; 3];
        for (component, (_, raw)) in self.application.components.iter().zip(&self.raw.component.0) {
            let needs = component.needs;
            let spans = [&raw.cores.span, &raw.memory.span, &raw.gpu_memory.span];
            for (at, need) in
                [u64::from(needs.cores), needs.memory_bytes, needs.gpu_memory_bytes].into_iter().enumerate()
            {
                let (name, warm) = (&component.name, component.shards.warm);
                if need > has[at] {
                    let what = format!(
                        "one shard of `{name}` needs {}, but the host {}",
                        show(at, need),
                        offer(at, host)
                    );
                    let cure = "lower what it needs, or use a larger host";
                    return Err(self.error(Problem::at(spans[at], what, cure)));
                }
                warm_need[at] = warm_need[at].saturating_add(need.saturating_mul(warm.into()));
                if warm_need[at] > has[at] {
                    let all = show(at, warm_need[at]);
                    let what = format!(
                        "with `{name}`, the warm shards together need {all}, but the host {}",
                        offer(at, host)
                    );
                    let cure =
                        format!("lower `warm` ({warm} here) or what a shard needs, or use a larger host");
                    return Err(self.error(Problem::at(spans[at], what, cure)));
                }
            }
        }
        Ok(())
    }
}

fn show(resource: usize, amount: u64) -> String {
    match resource {
        0 if amount == 1 => "1 core of its own".to_owned(),
        0 => format!("{amount} cores of their own"),
        1 => format!("{} of memory", quantity::show_bytes(amount)),
        _ => format!("{} of GPU memory", quantity::show_bytes(amount)),
    }
}

fn offer(resource: usize, host: &Host) -> String {
    match resource {
        0 => format!("has {} and keeps one for all others", host.cores),
        1 => format!("has {}", quantity::show_bytes(host.memory_bytes)),
        _ => format!("has {}", quantity::show_bytes(host.gpu_memory_bytes)),
    }
}
