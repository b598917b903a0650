//! Which device, port and address a shard uses, and why.

use super::{Library, LoadError, VerbsError, ffi};
use std::ffi::CStr;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ptr::NonNull;
use std::sync::Arc;

/// What the caller wants of a device; what is left open is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The device's name, such as `mlx5_0` or `rxe0`.
    pub device: Option<String>,
    /// The address that its port has.
    pub address: Option<IpAddr>,
}

/// Why no device can be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No libibverbs.
    #[error(transparent)]
    Library(#[from] LoadError),
    /// The host has no RDMA device.
    #[error(
        "this host has no RDMA device: add one (for software RoCE: `rdma link add rxe0 type rxe netdev INTERFACE`), or use links of kind tcp"
    )]
    None,
    /// No device does.
    #[error("no RDMA device can be used: {}", refused.join("; "))]
    Refused {
        /// Each device and port, and what is wrong with it.
        refused: Vec<String>,
    },
    /// A call failed.
    #[error(transparent)]
    Verbs(#[from] VerbsError),
}

/// A device's port and address, ready to be used, and how it was chosen.
#[derive(Clone)]
pub struct Device {
    context: Arc<Context>,
    pub(super) port: u8,
    pub(super) gid_index: u8,
    gid: [u8; 16],
    pub(super) mtu: ffi::ibv_mtu,
    message_bytes_max: u32,
    why: String,
}

/// An open device.
pub struct Context {
    pub(super) library: &'static Library,
    pub(super) handle: NonNull<ffi::ibv_context>,
    name: String,
    limits: ffi::ibv_device_attr,
}

// SAFETY: the verbs of a context may be called from any thread, also at once (ibv_open_device(3), thread safety of
// libibverbs); we keep only the handle.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `open_all`, closed once; all that stands on it holds this context and is gone.
        unsafe { (self.library.ibv_close_device)(self.handle.as_ptr()) };
    }
}

impl Context {
    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many completions one queue can hold.
    pub fn completions_max(&self) -> u32 {
        u32::try_from(self.limits.max_cqe).unwrap_or(0)
    }

    /// Something that happened to the device or a port as a whole, if anything did: its name. Never waits.
    pub fn take_event(&self) -> Option<DeviceEvent> {
        // SAFETY: the context is alive; its descriptor was made non-blocking, so the call returns at once.
        unsafe {
            let mut event = ffi::ibv_async_event::default();
            if (self.library.ibv_get_async_event)(self.handle.as_ptr(), &raw mut event) != 0 {
                return None;
            }
            let kind = event.event_type;
            // Acknowledged at once: objects named by events could not be destroyed before.
            (self.library.ibv_ack_async_event)(&raw mut event);
            Some(DeviceEvent(kind))
        }
    }

    fn make_events_non_blocking(&self) -> Result<(), VerbsError> {
        // SAFETY: the descriptor is the context's, which is alive.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw((*self.handle.as_ptr()).async_fd) };
        rustix::io::ioctl_fionbio(fd, true)
            .map_err(|error| VerbsError::Call { call: "ioctl(FIONBIO)", error: error.into() })
    }
}

/// What happened to a device as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceEvent(ffi::ibv_event_type);

impl DeviceEvent {
    /// Whether the device is gone, with all that stands on it.
    pub fn is_fatal(self) -> bool {
        self.0 == ffi::IBV_EVENT_DEVICE_FATAL
    }

    /// Whether a port went down.
    pub fn is_port_down(self) -> bool {
        self.0 == ffi::IBV_EVENT_PORT_ERR
    }
}

impl fmt::Display for DeviceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ffi::IBV_EVENT_DEVICE_FATAL => f.write_str("the device failed"),
            ffi::IBV_EVENT_PORT_ERR => f.write_str("a port went down"),
            ffi::IBV_EVENT_PORT_ACTIVE => f.write_str("a port came up"),
            ffi::IBV_EVENT_GID_CHANGE => f.write_str("an address changed"),
            other => write!(f, "event {}", other.0),
        }
    }
}

impl Device {
    /// The open device.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The port's address on the fabric.
    pub fn gid(&self) -> [u8; 16] {
        self.gid
    }

    /// The largest packet of the port, in bytes.
    pub fn mtu_bytes(&self) -> u32 {
        128 << self.mtu.0
    }

    /// The largest message that one request may carry.
    pub fn message_bytes_max(&self) -> u32 {
        self.message_bytes_max
    }

    /// How it was chosen, for people.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Chooses a device, a port of it that is up, and the entry of its address table that RoCE v2 needs: the one that
/// holds an IPv4 address, or else a routable IPv6 address, found by content and type, not by number. The first that
/// fits the wish is taken, in the order of the names.
///
/// # Errors
/// There is none; the error tells what is wrong with each.
pub fn choose(wish: &Wish) -> Result<Device, DeviceError> {
    let mut contexts = open_all(Library::get()?)?;
    if contexts.is_empty() {
        return Err(DeviceError::None);
    }
    contexts.sort_by(|a, b| a.name.cmp(&b.name));
    let mut refused = Vec::new();
    for context in contexts.into_iter().map(Arc::new) {
        if wish.device.as_ref().is_some_and(|name| *name != context.name) {
            refused.push(format!("{}: another one is asked for", context.name));
            continue;
        }
        for port in 1..=context.limits.phys_port_cnt {
            match examine(&context, port, wish)? {
                Ok(device) => return Ok(device),
                Err(reason) => refused.push(format!("{} port {port}: {reason}", context.name)),
            }
        }
    }
    if let Some(name) = &wish.device
        && !refused.iter().any(|refusal| refusal.starts_with(&format!("{name} ")))
    {
        refused.insert(0, format!("there is no {name}"));
    }
    Err(DeviceError::Refused { refused })
}

fn open_all(library: &'static Library) -> Result<Vec<Context>, VerbsError> {
    let verbs = library;
    let mut count = 0;
    // SAFETY: `count` is written; the list is freed below.
    let list = unsafe { (verbs.ibv_get_device_list)(&raw mut count) };
    if list.is_null() {
        let error = std::io::Error::last_os_error();
        // A kernel without RDMA has no such devices.
        return if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ENOENT)) {
            Ok(Vec::new())
        } else {
            Err(VerbsError::Call { call: "ibv_get_device_list", error })
        };
    }
    let contexts = (0..usize::try_from(count).unwrap_or(0)).map(|at| {
        // SAFETY: the list has `count` devices; names are C strings that live as long as the device.
        let (device, name) = unsafe {
            let device = *list.add(at);
            (device, CStr::from_ptr((verbs.ibv_get_device_name)(device)).to_string_lossy().into_owned())
        };
        // SAFETY: a device of the list.
        let handle = NonNull::new(unsafe { (verbs.ibv_open_device)(device) });
        let handle = handle.ok_or_else(|| VerbsError::last("ibv_open_device"))?;
        let mut context = Context { library, handle, name, limits: ffi::ibv_device_attr::default() };
        // SAFETY: the context is open; the structure is written.
        let number = unsafe { (verbs.ibv_query_device)(handle.as_ptr(), &raw mut context.limits) };
        VerbsError::of_number("ibv_query_device", number)?;
        context.make_events_non_blocking()?;
        Ok(context)
    });
    let contexts = contexts.collect();
    // SAFETY: open devices stay open after their list is freed (ibv_get_device_list(3)).
    unsafe { (verbs.ibv_free_device_list)(list) };
    contexts
}

/// Looks at a port: the device, or why it can't be used.
fn examine(context: &Arc<Context>, port: u8, wish: &Wish) -> Result<Result<Device, String>, VerbsError> {
    let verbs = context.library;
    let mut attributes = ffi::ibv_port_attr::default();
    // SAFETY: the context is open; the structure is written.
    let number = unsafe { verbs.ibv_query_port(context.handle.as_ptr(), port, &raw mut attributes) };
    VerbsError::of_number("ibv_query_port", number)?;
    if attributes.state != ffi::IBV_PORT_ACTIVE {
        let cure = "bring its interface up (`ip link set INTERFACE up`)";
        return Ok(Err(format!("it is down (state {}): {cure}", attributes.state.0)));
    }
    let mut entries = Vec::new();
    for index in 0..u32::try_from(attributes.gid_tbl_len).unwrap_or(0) {
        let mut entry = ffi::ibv_gid_entry::default();
        // SAFETY: as above; an index without an entry is an error's number.
        let number =
            unsafe { verbs.ibv_query_gid_ex(context.handle.as_ptr(), port.into(), index, &raw mut entry, 0) };
        if number == 0 && entry.gid_type == ffi::IBV_GID_TYPE_ROCE_V2 {
            // SAFETY: any 16 bytes are a GID.
            entries.push((index as u8, unsafe { entry.gid.raw }));
        }
    }
    let fits = |gid: &[u8; 16]| wish.address.is_none_or(|address| address == address_of(*gid));
    let best = entries.iter().filter(|(_, gid)| fits(gid) && rank(*gid) > 0).max_by_key(|(index, gid)| {
        // The first of the best kind.
        (rank(*gid), u8::MAX - index)
    });
    Ok(match best {
        Some(&(gid_index, gid)) => Ok(Device {
            why: format!(
                "{} port {port}, address {} (entry {gid_index}, RoCE v2), packets of {} bytes",
                context.name,
                address_of(gid),
                128 << attributes.active_mtu.0
            ),
            context: Arc::clone(context),
            port,
            gid_index,
            gid,
            mtu: attributes.active_mtu,
            message_bytes_max: attributes.max_msg_sz,
        }),
        None => {
            let have: Vec<_> = entries.iter().map(|(_, gid)| address_of(*gid).to_string()).collect();
            let wanted =
                wish.address.map_or("a RoCE v2 entry with a routable address".into(), |a| a.to_string());
            let have = if have.is_empty() { "none".into() } else { have.join(", ") };
            Err(format!(
                "its address table has no {wanted} (it has: {have}): give its interface an IPv4 address"
            ))
        }
    })
}

/// What a GID is as an address: IPv4 where it is mapped.
fn address_of(gid: [u8; 16]) -> IpAddr {
    let address = Ipv6Addr::from(gid);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

/// How well an address serves: 0 not at all.
fn rank(gid: [u8; 16]) -> u8 {
    match address_of(gid) {
        IpAddr::V4(_) => 2,
        // Link-local addresses are ambiguous across interfaces.
        IpAddr::V6(address) if address.is_unspecified() || address.is_unicast_link_local() => 0,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_ipv4_address_is_better_than_ipv6_and_link_local_is_none() {
        let rank_of = |text: &str| rank(text.parse::<Ipv6Addr>().unwrap().octets());
        assert!(rank_of("::ffff:10.0.0.1") > rank_of("fd00::1"));
        assert!(rank_of("fd00::1") > 0);
        assert_eq!((rank_of("fe80::1"), rank_of("::")), (0, 0));
    }

    #[test]
    fn without_a_device_the_error_says_what_to_do() {
        // On a host with devices another test has its say.
        if let Err(error @ (DeviceError::None | DeviceError::Library(_))) = choose(&Wish::default()) {
            assert!(error.to_string().contains("tcp"), "{error}");
        }
    }
}
