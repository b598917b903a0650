//! The functions of `libibverbs.so.1`, found at run time.
//!
//! Invariant: every function is found before the first is called, and `ibv_fork_init` is called before any other. The
//! library is never unloaded, so its functions may be called until the process ends.
//!
//! A function's signature is written once, below; `tests/verbs-layout` compares it with the header's.

use super::ffi::{self, *};
use libloading::os::unix as dynamic;
use std::error::Error;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// The name that the dynamic loader knows the library by: its major version is its ABI.
const LIBRARY: &str = "libibverbs.so.1";

/// Why there is no RDMA in this process. It stays so until the process ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The library is not there, or does not load.
    #[error(
        "RDMA needs {LIBRARY}, which did not load ({reason}): install the packages libibverbs1 and ibverbs-providers"
    )]
    NotLoaded {
        /// What the dynamic loader said.
        reason: String,
    },
    /// The library is there and lacks a function.
    #[error("{LIBRARY} has no function {symbol}: update the package libibverbs1 (to rdma-core 32 or later)")]
    NoSymbol {
        /// The function.
        symbol: &'static str,
    },
    /// A fork after registering memory would corrupt it, and the library could not prevent that.
    #[error(
        "ibv_fork_init failed ({}): ask for RDMA before anything else in this process registers memory with it",
        std::io::Error::from_raw_os_error(*.errno)
    )]
    Fork {
        /// The error number.
        errno: i32,
    },
}

/// Declares [`Library`] and how its functions are found.
macro_rules! library {
    (
        required {$(
            $(#[$doc:meta])*
            pub fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;
        )*}
        optional {$(
            $(#[$optional_doc:meta])*
            pub fn $optional:ident($($optional_argument:ident: $optional_type:ty),*) -> $optional_result:ty;
        )*}
    ) => {
        /// The functions of libibverbs, named as in C: see section 3 of the manual.
        ///
        /// Each is a pointer to call, and calling it is unsafe: what it is handed must live, must have come from this
        /// library and must not have been destroyed.
        #[derive(Clone, Debug)]
        pub struct Library {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?,)*
            $(
                $(#[$optional_doc])*
                pub $optional: Option<unsafe extern "C" fn($($optional_argument: $optional_type),*) -> $optional_result>,
            )*
        }

        impl Library {
            /// Finds every function in `library`.
            ///
            /// # Safety
            /// What `library` exports under these names has these signatures, and it is never unloaded.
            unsafe fn resolve(library: &dynamic::Library) -> Result<Self, LoadError> {
                // SAFETY: each field's type is a pointer to a function, and the right one, as the caller promises.
                unsafe {
                    Ok(Self {
                        $($name: required(library, stringify!($name))?,)*
                        $($optional: optional(library, stringify!($optional)),)*
                    })
                }
            }
        }
    };
}

library! {
    required {
        /// Makes forks safe for registered memory. Was called when the library was loaded.
        pub fn ibv_fork_init() -> c_int;

        /// The devices, as an array that ends with a null pointer; null, with an error number, where there is no RDMA.
        pub fn ibv_get_device_list(num_devices: *mut c_int) -> *mut *mut ibv_device;
        /// Frees the array. A device stays valid only if it was opened before.
        pub fn ibv_free_device_list(list: *mut *mut ibv_device);
        /// A device's name, valid as long as the device.
        pub fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char;
        /// A device's identifier, in network byte order.
        pub fn ibv_get_device_guid(device: *mut ibv_device) -> __be64;
        /// Opens a device: null, with an error number, if it failed.
        pub fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context;
        /// Closes a device. What was made in it must have been destroyed.
        pub fn ibv_close_device(context: *mut ibv_context) -> c_int;
        /// What the device can do.
        pub fn ibv_query_device(context: *mut ibv_context, device_attr: *mut ibv_device_attr) -> c_int;
        /// Fills the old structure: [`Library::ibv_query_port()`] is the one to call.
        pub fn ibv_query_port(context: *mut ibv_context, port_num: u8, port_attr: *mut _compat_ibv_port_attr) -> c_int;
        /// One of the port's addresses.
        pub fn ibv_query_gid(context: *mut ibv_context, port_num: u8, index: c_int, gid: *mut ibv_gid) -> c_int;
        /// Takes the structure's size: [`Library::ibv_query_gid_ex()`] adds it.
        pub fn _ibv_query_gid_ex(
            context: *mut ibv_context, port_num: u32, gid_index: u32, entry: *mut ibv_gid_entry, flags: u32,
            entry_size: usize
        ) -> c_int;
        /// One of the port's partition keys, in network byte order.
        pub fn ibv_query_pkey(context: *mut ibv_context, port_num: u8, index: c_int, pkey: *mut __be16) -> c_int;

        /// Waits for the next asynchronous event of the device.
        pub fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int;
        /// Acknowledges an asynchronous event: what it is about can't be destroyed before.
        pub fn ibv_ack_async_event(event: *mut ibv_async_event);
        /// An asynchronous event in words.
        pub fn ibv_event_type_str(event: ibv_event_type) -> *const c_char;
        /// A port's state in words.
        pub fn ibv_port_state_str(port_state: ibv_port_state) -> *const c_char;
        /// A completion's status in words.
        pub fn ibv_wc_status_str(status: ibv_wc_status) -> *const c_char;

        /// Makes a protection domain.
        pub fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd;
        /// Destroys a protection domain. What was made in it must have been destroyed.
        pub fn ibv_dealloc_pd(pd: *mut ibv_pd) -> c_int;
        /// Registers memory. Not for the optional access flags (`IBV_ACCESS_RELAXED_ORDERING`): the header sends those
        /// to a newer function, which drops them where the kernel does not know them; here they would fail.
        pub fn ibv_reg_mr(pd: *mut ibv_pd, addr: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr;
        /// Ends a registration.
        pub fn ibv_dereg_mr(mr: *mut ibv_mr) -> c_int;

        /// Makes a channel for completion events.
        pub fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel;
        /// Destroys a channel. No completion queue may use it any more.
        pub fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int;
        /// Makes a completion queue.
        pub fn ibv_create_cq(
            context: *mut ibv_context, cqe: c_int, cq_context: *mut c_void, channel: *mut ibv_comp_channel,
            comp_vector: c_int
        ) -> *mut ibv_cq;
        /// Destroys a completion queue. No queue pair may use it any more; it waits until every event is acknowledged.
        pub fn ibv_destroy_cq(cq: *mut ibv_cq) -> c_int;
        /// Waits for the next completion event of the channel.
        pub fn ibv_get_cq_event(
            channel: *mut ibv_comp_channel, cq: *mut *mut ibv_cq, cq_context: *mut *mut c_void
        ) -> c_int;
        /// Acknowledges completion events.
        pub fn ibv_ack_cq_events(cq: *mut ibv_cq, nevents: c_uint);

        /// Makes a queue pair, and writes what was granted into `qp_init_attr`.
        pub fn ibv_create_qp(pd: *mut ibv_pd, qp_init_attr: *mut ibv_qp_init_attr) -> *mut ibv_qp;
        /// Changes those attributes that `attr_mask` names.
        pub fn ibv_modify_qp(qp: *mut ibv_qp, attr: *mut ibv_qp_attr, attr_mask: c_int) -> c_int;
        /// Reads at least those attributes that `attr_mask` names.
        pub fn ibv_query_qp(
            qp: *mut ibv_qp, attr: *mut ibv_qp_attr, attr_mask: c_int, init_attr: *mut ibv_qp_init_attr
        ) -> c_int;
        /// Destroys a queue pair. Requests that are still posted get no completion.
        pub fn ibv_destroy_qp(qp: *mut ibv_qp) -> c_int;
    }
    optional {
        /// Whether the bytes of one message arrive in order: 1 or 0. Not in libraries before rdma-core 36.
        pub fn ibv_query_qp_data_in_order(qp: *mut ibv_qp, op: ibv_wr_opcode, flags: u32) -> c_int;
    }
}

impl Library {
    /// The library: loaded by the first call, the same for all.
    ///
    /// The first call also calls `ibv_fork_init`, so that this process may fork after it registered memory. Registered
    /// memory on huge pages needs `RDMAV_HUGEPAGES_SAFE` in the environment for that, on kernels before 5.12.
    pub fn get() -> Result<&'static Self, LoadError> {
        static LIBRARY_ONCE: OnceLock<Result<Library, LoadError>> = OnceLock::new();
        LIBRARY_ONCE.get_or_init(|| Self::load(LIBRARY)).as_ref().map_err(LoadError::clone)
    }

    /// Loads the library of this name, finds its functions and prepares for forks.
    fn load(name: &str) -> Result<Self, LoadError> {
        // Never unloaded, whatever comes of it: it may have left handlers and threads behind.
        let flags = dynamic::RTLD_NOW | dynamic::RTLD_LOCAL | libc::RTLD_NODELETE;
        // SAFETY: loading runs the library's initialisers; what the system has installed under this name is as
        // trusted as any library that a program is linked with.
        let library = unsafe { dynamic::Library::open(Some(name), flags) }.map_err(|error| {
            // The error only says that it failed; its source has what the dynamic loader said.
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            LoadError::NotLoaded { reason }
        })?;
        // SAFETY: the name holds the ABI's version, in which these signatures are fixed; it is never unloaded.
        let library = unsafe { Self::resolve(&library) }?;
        // SAFETY: takes nothing, and may be called at any time.
        match unsafe { (library.ibv_fork_init)() } {
            0 => Ok(library),
            errno => Err(LoadError::Fork { errno }),
        }
    }

    /// The port's state and properties: zero or an error number. See `ibv_query_port(3)`.
    ///
    /// The exported function of this name fills an old, shorter structure. The header hides it behind a macro, which
    /// calls the context's extended table with the structure's size where it can, and else zeroes the structure and
    /// lets the exported function fill its first part. So does this.
    ///
    /// # Safety
    /// `context` is open, and `port_attr` is valid for a write.
    pub unsafe fn ibv_query_port(
        &self,
        context: *mut ibv_context,
        port_num: u8,
        port_attr: *mut ibv_port_attr,
    ) -> c_int {
        // SAFETY: the context is open, as the caller promises. Neither function writes more than it is told to, or
        // than the old structure has, which is a prefix of the new one.
        unsafe {
            if let Some(query_port) = ffi::extended_query_port(context) {
                return query_port(context, port_num, port_attr, size_of::<ibv_port_attr>());
            }
            port_attr.write(ibv_port_attr::default());
            (self.ibv_query_port)(context, port_num, port_attr.cast())
        }
    }

    /// One of the port's addresses, with its kind and network interface: zero or an error number, `ENODATA` for an
    /// empty entry. `flags` must be zero. See `ibv_query_gid_ex(3)`.
    ///
    /// In the header it is an inline function that adds the structure's size, so that a newer library does not write
    /// past it.
    ///
    /// # Safety
    /// `context` is open, and `entry` is valid for a write.
    pub unsafe fn ibv_query_gid_ex(
        &self,
        context: *mut ibv_context,
        port_num: u32,
        gid_index: u32,
        entry: *mut ibv_gid_entry,
        flags: u32,
    ) -> c_int {
        // SAFETY: as the caller promises; the size is that of what `entry` points to.
        unsafe {
            (self._ibv_query_gid_ex)(context, port_num, gid_index, entry, flags, size_of::<ibv_gid_entry>())
        }
    }
}

/// The function `symbol`.
///
/// # Safety
/// As [`optional`].
unsafe fn required<F: Copy>(library: &dynamic::Library, symbol: &'static str) -> Result<F, LoadError> {
    // SAFETY: as the caller promises.
    unsafe { optional(library, symbol) }.ok_or(LoadError::NoSymbol { symbol })
}

/// The function `symbol`, if the library has it.
///
/// # Safety
/// `F` is a pointer to a function, with the signature of what the library exports as `symbol`.
unsafe fn optional<F: Copy>(library: &dynamic::Library, symbol: &'static str) -> Option<F> {
    // SAFETY: the symbol is such a function, as the caller promises. Where it is null, so is the `Option`.
    unsafe { library.get::<Option<F>>(symbol).ok().and_then(|found| *found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_names_the_packages() {
        let error = Library::load("libibverbs-that-is-not-there.so.1").unwrap_err();
        assert!(
            matches!(&error, LoadError::NotLoaded { reason } if reason.contains("not-there")),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("libibverbs1") && text.contains("ibverbs-providers"), "{text}");
    }

    #[test]
    fn a_library_without_a_function_is_an_error_that_names_it() {
        let error = Library::load("libc.so.6").unwrap_err();
        assert_eq!(error, LoadError::NoSymbol { symbol: "ibv_fork_init" });
        assert!(error.to_string().contains("ibv_fork_init"), "{error}");
    }

    #[test]
    fn the_library_is_loaded_once() {
        match (Library::get(), Library::get()) {
            (Ok(first), Ok(second)) => assert!(std::ptr::eq(first, second)),
            (first, second) => assert_eq!(first.unwrap_err(), second.unwrap_err()),
        }
    }

    #[test]
    fn a_machine_has_its_devices_or_none_or_not_even_the_library() {
        let library = match Library::get() {
            Ok(library) => library,
            Err(LoadError::NotLoaded { reason }) => return println!("no libibverbs here: {reason}"),
            Err(error) => panic!("{error}"),
        };
        let mut count: c_int = -1;
        // SAFETY: `count` is valid for a write.
        let list = unsafe { (library.ibv_get_device_list)(&mut count) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        if list.is_null() {
            assert_eq!(errno, Some(libc::ENOSYS), "a kernel without RDMA");
            return println!("no RDMA in this kernel");
        }
        println!("{count} devices");
        // SAFETY: the list holds `count` devices and ends with a null pointer; a device has a name while the list lives,
        // which is until it is freed, at the end.
        unsafe {
            for at in 0..usize::try_from(count).unwrap() {
                let name = (library.ibv_get_device_name)(list.add(at).read());
                assert!(!CStr::from_ptr(name).is_empty());
            }
            assert!(list.add(usize::try_from(count).unwrap()).read().is_null());
            (library.ibv_free_device_list)(list);
        }
    }

    #[test]
    fn statuses_have_words() {
        let Ok(library) = Library::get() else { return };
        // SAFETY: any number may be asked for, and the words are never freed.
        let words = |status| unsafe { CStr::from_ptr((library.ibv_wc_status_str)(status)) };
        assert_eq!(words(IBV_WC_SUCCESS), c"success");
        assert_eq!(words(IBV_WC_RETRY_EXC_ERR), c"transport retry counter exceeded");
        assert_eq!(words(ibv_wc_status(9_999)), c"unknown");
    }

    /// An exported `ibv_query_port`: it knows the first part of the structure alone.
    unsafe extern "C" fn old_query_port(
        _: *mut ibv_context,
        _: u8,
        port_attr: *mut _compat_ibv_port_attr,
    ) -> c_int {
        // SAFETY: the test hands it a structure that starts with the state.
        unsafe { port_attr.cast::<ibv_port_state>().write(IBV_PORT_ACTIVE) };
        0
    }

    #[test]
    fn without_an_extended_table_the_rest_of_a_ports_properties_is_zero() {
        let Ok(library) = Library::get() else { return };
        let library = Library { ibv_query_port: old_query_port, ..library.clone() };
        // SAFETY: integers, null pointers and functions that are not there; so no extended table either.
        let mut context: ibv_context = unsafe { std::mem::zeroed() };
        let mut port_attr = ibv_port_attr { port_cap_flags2: 7, lid: 7, ..Default::default() };
        // SAFETY: the context may be read, and the structure written.
        assert_eq!(unsafe { library.ibv_query_port(&mut context, 1, &mut port_attr) }, 0);
        assert_eq!((port_attr.state, port_attr.lid, port_attr.port_cap_flags2), (IBV_PORT_ACTIVE, 0, 0));
    }
}
