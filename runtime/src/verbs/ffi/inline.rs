//! What the C header defines as inline functions: no library exports them, they call through the context's tables.
//!
//! libibverbs fills every entry of a table, with a function that fails where the provider has none. An entry that is
//! empty all the same is answered as that function would.

use super::bindings::{
    ibv_context, ibv_cq, ibv_port_attr, ibv_qp, ibv_recv_wr, ibv_send_wr, ibv_wc, verbs_context,
};
use std::ffi::c_int;
use std::mem::offset_of;

/// Takes up to `num_entries` completions off `cq`: how many, or negative. See `ibv_poll_cq(3)`.
///
/// # Safety
/// `cq` is a completion queue that is not destroyed, and `wc` is valid for writes of `num_entries` completions.
#[inline]
pub unsafe fn ibv_poll_cq(cq: *mut ibv_cq, num_entries: c_int, wc: *mut ibv_wc) -> c_int {
    // SAFETY: a completion queue that lives has a context that lives; the rest is as the caller promises.
    unsafe {
        match (*(*cq).context).ops.poll_cq {
            Some(poll_cq) => poll_cq(cq, num_entries, wc),
            None => -libc::EOPNOTSUPP,
        }
    }
}

/// Asks for an event at the next completion of `cq`: zero or an error number. See `ibv_req_notify_cq(3)`.
///
/// # Safety
/// `cq` is a completion queue that is not destroyed.
#[inline]
pub unsafe fn ibv_req_notify_cq(cq: *mut ibv_cq, solicited_only: c_int) -> c_int {
    // SAFETY: as in `ibv_poll_cq`.
    unsafe {
        match (*(*cq).context).ops.req_notify_cq {
            Some(req_notify_cq) => req_notify_cq(cq, solicited_only),
            None => libc::EOPNOTSUPP,
        }
    }
}

/// Posts a list of work requests to send: zero or an error number, and `bad_wr` is the first that was not posted. See
/// `ibv_post_send(3)`.
///
/// # Safety
/// `qp` is a queue pair that is not destroyed; `wr` and what it links to are valid work requests; `bad_wr` is valid for
/// a write. Unless it is sent inline, memory that a posted request names stays registered until the request's
/// completion, and is written by nobody where it is read, touched by nobody where it is written.
#[inline]
pub unsafe fn ibv_post_send(qp: *mut ibv_qp, wr: *mut ibv_send_wr, bad_wr: *mut *mut ibv_send_wr) -> c_int {
    // SAFETY: a queue pair that lives has a context that lives; the rest is as the caller promises.
    unsafe {
        match (*(*qp).context).ops.post_send {
            Some(post_send) => post_send(qp, wr, bad_wr),
            None => libc::EOPNOTSUPP,
        }
    }
}

/// Posts a list of work requests to receive: zero or an error number, and `bad_wr` is the first that was not posted.
/// See `ibv_post_recv(3)`.
///
/// # Safety
/// As [`ibv_post_send`]; the memory is written.
#[inline]
pub unsafe fn ibv_post_recv(qp: *mut ibv_qp, wr: *mut ibv_recv_wr, bad_wr: *mut *mut ibv_recv_wr) -> c_int {
    // SAFETY: as in `ibv_post_send`.
    unsafe {
        match (*(*qp).context).ops.post_recv {
            Some(post_recv) => post_recv(qp, wr, bad_wr),
            None => libc::EOPNOTSUPP,
        }
    }
}

/// The `query_port` of a context's extended table, which takes the size of the structure to fill.
type QueryPort = unsafe extern "C" fn(*mut ibv_context, u8, *mut ibv_port_attr, usize) -> c_int;

/// `query_port` of the extended table, if `context` has one that reaches so far and the entry is filled.
///
/// The extended table lies before its context and grows towards lower addresses; `sz`, right before the context, says
/// how large it is. So the distance of an entry from the context is the same in every version, and what lies outside
/// of `sz` may not even be pointed to.
///
/// # Safety
/// `context` is an open context.
pub(in crate::verbs) unsafe fn extended_query_port(context: *mut ibv_context) -> Option<QueryPort> {
    /// How far before the context the size of the table is, and `query_port`.
    const SZ_BYTES: usize = offset_of!(verbs_context, context) - offset_of!(verbs_context, sz);
    const QUERY_PORT_BYTES: usize =
        offset_of!(verbs_context, context) - offset_of!(verbs_context, query_port);
    /// The size from which on a table has a `query_port`.
    const SIZE_MIN_BYTES: usize = size_of::<verbs_context>() - offset_of!(verbs_context, query_port);
    /// What `abi_compat` is in a context that has an extended table.
    const IS_EXTENDED: usize = usize::MAX;

    // SAFETY: the context is open, so it can be read; with the mark it lies behind a table that has at least its size;
    // and `query_port` is read only if that size covers it.
    unsafe {
        if (*context).abi_compat.addr() != IS_EXTENDED {
            return None;
        }
        if context.byte_sub(SZ_BYTES).cast::<usize>().read() < SIZE_MIN_BYTES {
            return None;
        }
        context.byte_sub(QUERY_PORT_BYTES).cast::<Option<QueryPort>>().read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::null_mut;

    /// A context behind an extended table, as the library makes them: all empty.
    fn context() -> Box<verbs_context> {
        // SAFETY: integers, null pointers and functions that are not there.
        let mut all: Box<verbs_context> = unsafe { Box::new(std::mem::zeroed()) };
        all.sz = size_of::<verbs_context>();
        all.context.abi_compat = std::ptr::without_provenance_mut(usize::MAX);
        all
    }

    /// The `query_port` that is found from the context of `all`.
    fn found(all: &mut verbs_context) -> Option<QueryPort> {
        let all: *mut verbs_context = all;
        // SAFETY: the context is inside of `all`, and so is its table.
        unsafe { extended_query_port(&raw mut (*all).context) }
    }

    unsafe extern "C" fn query_port(
        _: *mut ibv_context,
        port: u8,
        _: *mut ibv_port_attr,
        size: usize,
    ) -> c_int {
        c_int::from(port) + size as c_int
    }

    #[test]
    fn the_extended_query_port_is_found_where_there_is_one() {
        let mut all = context();
        assert!(found(&mut all).is_none(), "the entry is empty");
        all.query_port = Some(query_port);
        let there = found(&mut all).expect("the entry is filled");
        // SAFETY: it uses none of the pointers.
        assert_eq!(unsafe { there(null_mut(), 2, null_mut(), 40) }, 42);
        all.sz -= 1;
        assert!(found(&mut all).is_none(), "the table of an older library ends before it");
        all.sz += 65;
        assert!(found(&mut all).is_some(), "the table of a newer library is larger");
        all.context.abi_compat = null_mut();
        assert!(found(&mut all).is_none(), "there is no table");
    }

    unsafe extern "C" fn poll_cq(_: *mut ibv_cq, entries: c_int, _: *mut ibv_wc) -> c_int {
        1_000 + entries
    }
    unsafe extern "C" fn req_notify_cq(_: *mut ibv_cq, solicited_only: c_int) -> c_int {
        2_000 + solicited_only
    }
    unsafe extern "C" fn post_send(_: *mut ibv_qp, _: *mut ibv_send_wr, _: *mut *mut ibv_send_wr) -> c_int {
        3_000
    }
    unsafe extern "C" fn post_recv(_: *mut ibv_qp, _: *mut ibv_recv_wr, _: *mut *mut ibv_recv_wr) -> c_int {
        4_000
    }

    #[test]
    fn the_inline_functions_call_their_entry_and_an_empty_one_fails() {
        let mut all = context();
        // SAFETY: integers and null pointers.
        let (mut cq, mut qp): (ibv_cq, ibv_qp) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let context = &raw mut all.context;
        (cq.context, qp.context) = (context, context);
        // SAFETY: the context lives, and none of the entries uses the other pointers.
        let mut answers = || unsafe {
            [
                ibv_poll_cq(&mut cq, 7, null_mut()),
                ibv_req_notify_cq(&mut cq, 1),
                ibv_post_send(&mut qp, null_mut(), null_mut()),
                ibv_post_recv(&mut qp, null_mut(), null_mut()),
            ]
        };
        let empty = libc::EOPNOTSUPP;
        assert_eq!(answers(), [-empty, empty, empty, empty]);
        // SAFETY: nobody else uses the context.
        let ops = unsafe { &mut (*context).ops };
        ops.poll_cq = Some(poll_cq);
        ops.req_notify_cq = Some(req_notify_cq);
        ops.post_send = Some(post_send);
        ops.post_recv = Some(post_recv);
        assert_eq!(answers(), [1_007, 2_001, 3_000, 4_000]);
    }
}
