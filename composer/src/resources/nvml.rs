//! GPUs and their instances, as NVIDIA's management library tells. It is loaded at run time; without it there are none.

use super::inventory::{DEVICES_MAX, Gpu, GpuInstance};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// The library as the driver installs it; the name without a number belongs to development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The GPUs. `node_of` tells the NUMA node of a device on the PCI bus.
pub(super) fn gpus(node_of: impl Fn(&str) -> Option<u32>) -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::builder().lib_path(LIBRARY.as_ref()).init();
    let nvml = nvml.map_err(|error| format!("{LIBRARY}: {error}"))?;
    let count = nvml.device_count().map_err(|error| error.to_string())?;
    let mut gpus = Vec::new();
    for index in 0..count.min(DEVICES_MAX as u32) {
        let gpu = nvml.device_by_index(index).and_then(|device| gpu(&device, &node_of));
        gpus.push(gpu.map_err(|error| format!("GPU {index}: {error}"))?);
    }
    Ok(gpus)
}

fn gpu(device: &Device<'_>, node_of: impl Fn(&str) -> Option<u32>) -> Result<Gpu, NvmlError> {
    let node = device.pci_info().ok().and_then(|pci| node_of(&pci.bus_id));
    let (name, memory_bytes) = (device.uuid()?, device.memory_info()?.total);
    Ok(Gpu { name, node, memory_bytes, instances: instances(device)? })
}

fn instances(device: &Device<'_>) -> Result<Vec<GpuInstance>, NvmlError> {
    // It says "not supported" where a GPU can't be divided, and 0 where it could be and is not.
    let count = device.mig_device_count().unwrap_or(0);
    let mut instances = Vec::new();
    for index in 0..count.min(DEVICES_MAX as u32) {
        match device.mig_device_by_index(index) {
            Ok(part) => {
                instances.push(GpuInstance { name: part.uuid()?, memory_bytes: part.memory_info()?.total })
            }
            // There can be so many; there are fewer.
            Err(NvmlError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(instances)
}

/// A device's folder as the kernel names it, from its address as NVML writes it.
pub(super) fn pci_folder(bus: &str) -> String {
    let address = bus.to_ascii_lowercase();
    match address.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => format!("{}:{rest}", &domain[domain.len() - 4..]),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_nvml_finds_the_kernels_folder() {
        assert_eq!(pci_folder("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(pci_folder("0001:65:00.0"), "0001:65:00.0");
        assert_eq!(pci_folder("garbage"), "garbage");
    }
}
