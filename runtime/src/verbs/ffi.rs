//! The types and constants of `<infiniband/verbs.h>` that a reliable connection needs, and its inline functions.
//!
//! The bindings were generated once, from rdma-core 44.0, and are committed. `tests/verbs-layout` holds the command
//! that made them and a test that compares every size, offset and constant with those of the crate `rdma-sys`, made
//! on the spot from the system's header.
//!
//! Invariant: any bits that foreign code writes are a valid value of the type. What is an enum in C is an integer
//! here: a newtype for a kind (`ibv_wc_status`), a plain one for a set of bits (`ibv_send_flags`).
//!
//! Structures that the library makes (`ibv_context`, `ibv_qp`, …) are seen only behind its pointers: they have no
//! copies and no default. The others start zeroed, as `Default`.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    clippy::undocumented_unsafe_blocks,
    reason = "generated: the names are documented as C's, and its unsafe code only zeroes integers and pointers"
)]
mod bindings;
mod inline;

pub use bindings::*;
pub(super) use inline::extended_query_port;
pub use inline::{ibv_poll_cq, ibv_post_recv, ibv_post_send, ibv_req_notify_cq};
