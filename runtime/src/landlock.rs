//! Whether the kernel has Landlock, and which version of its interface. (landlock_create_ruleset(2).)

/// The version of the interface; `None` where the kernel has none, or does not use it.
pub fn version() -> Option<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag, no attributes and no size, the call reads no memory and makes nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION) };
    u32::try_from(version).ok()
}
