//! The committed bindings of libibverbs against those that `rdma-sys` makes from the system's header: every structure's
//! size and alignment, every field's offset, size and type, every constant's value, every function's signature. Nothing
//! that the bindings declare may be missing here.
//!
//! What has to be installed (Debian 12): `libibverbs-dev`, `librdmacm-dev`, `libclang-14-dev` (no newer one: `rdma-sys`
//! does not build with it), `pkg-config` and a C compiler. How to run it, in this folder:
//!
//! ```sh
//! LIBCLANG_PATH=/usr/lib/llvm-14/lib cargo test
//! ```
//!
//! After a new `generate.sh`, the tests name what has changed.

use shard_runtime::verbs::{Library, ffi};
use std::any::type_name;
use std::collections::BTreeSet;
use std::mem::offset_of;

/// What `rdma-sys` declares, under our names where its own differ.
#[allow(non_camel_case_types)]
mod theirs {
    pub use rdma_sys::*;

    pub type ibv_gid__bindgen_ty_1 = ibv_gid_global_t;
    pub type ibv_async_event__bindgen_ty_1 = ibv_async_event_element_t;
    pub type ibv_wc__bindgen_ty_1 = imm_data_invalidated_rkey_union_t;
    pub type ibv_send_wr__bindgen_ty_1 = imm_data_invalidated_rkey_union_t;
    pub type ibv_send_wr__bindgen_ty_2 = wr_t;
    pub type ibv_send_wr__bindgen_ty_2__bindgen_ty_1 = rdma_t;
    pub type ibv_send_wr__bindgen_ty_2__bindgen_ty_2 = atomic_t;
    pub type ibv_send_wr__bindgen_ty_2__bindgen_ty_3 = ud_t;
    pub type ibv_send_wr__bindgen_ty_3 = qp_type_t;
    pub type ibv_send_wr__bindgen_ty_3__bindgen_ty_1 = xrc_t;
    pub type ibv_send_wr__bindgen_ty_4 = bind_mw_tso_union_t;
    pub type ibv_send_wr__bindgen_ty_4__bindgen_ty_1 = bind_mw_t;
    pub type ibv_send_wr__bindgen_ty_4__bindgen_ty_2 = tso_t;

    /// The one kind whose values it declares outside of a scope.
    pub mod ibv_gid_type {
        pub use rdma_sys::{IBV_GID_TYPE_IB, IBV_GID_TYPE_ROCE_V1, IBV_GID_TYPE_ROCE_V2};
    }
}

/// Names of one type on the two sides, as [`plain`] writes both.
const SAME: [(&str, &str); 27] = [
    ("ibv_gid_global_t", "ibv_gid__bindgen_ty_1"),
    ("ibv_async_event_element_t", "ibv_async_event__bindgen_ty_1"),
    ("ibv_wc__bindgen_ty_1", "imm_data_invalidated_rkey_union_t"),
    ("ibv_send_wr__bindgen_ty_1", "imm_data_invalidated_rkey_union_t"),
    ("wr_t", "ibv_send_wr__bindgen_ty_2"),
    ("rdma_t", "ibv_send_wr__bindgen_ty_2__bindgen_ty_1"),
    ("atomic_t", "ibv_send_wr__bindgen_ty_2__bindgen_ty_2"),
    ("ud_t", "ibv_send_wr__bindgen_ty_2__bindgen_ty_3"),
    ("qp_type_t", "ibv_send_wr__bindgen_ty_3"),
    ("xrc_t", "ibv_send_wr__bindgen_ty_3__bindgen_ty_1"),
    ("bind_mw_tso_union_t", "ibv_send_wr__bindgen_ty_4"),
    ("bind_mw_t", "ibv_send_wr__bindgen_ty_4__bindgen_ty_1"),
    ("tso_t", "ibv_send_wr__bindgen_ty_4__bindgen_ty_2"),
    // A kind is a newtype with us, and mostly an integer there.
    ("ibv_wc_status", "u32"),
    ("ibv_wc_opcode", "u32"),
    ("ibv_qp_state", "u32"),
    ("ibv_qp_type", "u32"),
    ("ibv_mig_state", "u32"),
    ("ibv_wr_opcode", "u32"),
    ("ibv_mtu", "u32"),
    ("ibv_port_state", "u32"),
    ("ibv_event_type", "u32"),
    ("ibv_atomic_cap", "u32"),
    ("ibv_mw_type", "u32"),
    ("ib_uverbs_advise_mr_advice", "u32"),
    ("ibv_node_type", "i32"),
    ("ibv_transport_type", "i32"),
];

/// A type's name without paths, and with one name where the two sides have two.
fn plain(name: &str) -> String {
    let mut plain = String::new();
    let mut word = String::new();
    for letter in name.chars().chain(['\0']) {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => word.push(letter),
            _ => {
                let last = word.rsplit("::").next().unwrap_or_default();
                let same = SAME.iter().find(|(from, _)| *from == last);
                plain.push_str(same.map_or(last, |(_, to)| to));
                plain.push(letter);
                word.clear();
            }
        }
    }
    plain.trim_end_matches('\0').to_owned()
}

/// The size and the plain name of what `field` points to; it is never called.
fn field<T, F>(_field: impl Fn(*const T) -> *const F) -> (usize, String) {
    (size_of::<F>(), plain(type_name::<F>()))
}

/// The plain signature of a function pointer.
fn signature<F>(_: F) -> String {
    plain(type_name::<F>())
}

/// The plain signature of a function of the library; `function` is never called.
fn ours<F>(_function: impl Fn(&Library) -> F) -> String {
    plain(type_name::<F>())
}

/// The bits of a constant of an enum.
fn bits<T: Copy>(value: T) -> u32 {
    assert_eq!(size_of::<T>(), size_of::<u32>());
    // SAFETY: as large as a `u32`, as just checked, and an enum or an integer: no padding.
    unsafe { std::mem::transmute_copy(&value) }
}

/// What was compared, and what differed.
#[derive(Default)]
struct Comparison {
    compared: BTreeSet<String>,
    differences: Vec<String>,
}

impl Comparison {
    /// Compares one thing.
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, ours: T, theirs: T) {
        assert!(self.compared.insert(name.to_owned()), "{name} is compared twice");
        if ours != theirs {
            self.differences.push(format!("{name}: {ours:?} with us, {theirs:?} with rdma-sys"));
        }
    }

    /// Says what differed, what was declared and not compared, and what is compared and no longer declared.
    fn end(self, declared: &BTreeSet<String>) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
        let missing: Vec<_> = declared.symmetric_difference(&self.compared).collect();
        assert!(missing.is_empty(), "either declared or compared, but not both: {missing:?}");
    }
}

macro_rules! structures {
    ($comparison:ident: $($name:ident { $($field:ident),* $(; $ours:ident = $theirs:ident)* })*) => {$(
        let layout = (size_of::<ffi::$name>(), align_of::<ffi::$name>());
        $comparison.same(stringify!($name), layout, (size_of::<theirs::$name>(), align_of::<theirs::$name>()));
        $(structures!(@field $comparison $name $field $field);)*
        $(structures!(@field $comparison $name $ours $theirs);)*
    )*};
    (@field $comparison:ident $name:ident $ours:ident $theirs:ident) => {
        $comparison.same(
            concat!(stringify!($name), ".", stringify!($ours)),
            // SAFETY: neither closure is called.
            (offset_of!(ffi::$name, $ours), field(|all: *const ffi::$name| unsafe { &raw const (*all).$ours })),
            (
                offset_of!(theirs::$name, $theirs),
                // SAFETY: as above.
                field(|all: *const theirs::$name| unsafe { &raw const (*all).$theirs }),
            ),
        );
    };
}

macro_rules! constants {
    ($comparison:ident: $($kind:ident: $($name:ident),*;)*) => {$($(
        $comparison.same(stringify!($name), bits(ffi::$name), bits(theirs::$kind::$name));
    )*)*};
}

macro_rules! functions {
    ($comparison:ident: $($name:ident($($argument:tt),*);)*) => {$(
        $comparison.same(
            stringify!($name),
            ours(|library| library.$name),
            signature(theirs::$name as unsafe extern "C" fn($($argument),*) -> _),
        );
    )*};
}

/// What `bindings.rs` declares: `NAME` of a constant, `TYPE` and `TYPE.FIELD` of a structure that has public fields.
fn declared() -> (BTreeSet<String>, BTreeSet<String>) {
    let text = include_str!("../../../runtime/src/verbs/ffi/bindings.rs");
    let (mut constants, mut structures) = (BTreeSet::new(), BTreeSet::new());
    let mut inside = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub const ") {
            constants.insert(word(rest));
        } else if let Some(rest) =
            line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub union "))
        {
            inside = Some(word(rest));
        } else if let (Some(name), Some(rest)) = (&inside, line.strip_prefix("    pub ")) {
            structures.insert(name.clone());
            structures.insert(format!("{name}.{}", word(rest)));
        } else if line.starts_with('}') {
            inside = None;
        }
    }
    (constants, structures)
}

/// The identifier that `text` starts with.
fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
}

#[test]
fn every_structure_has_the_layout_of_the_header() {
    let mut comparison = Comparison::default();
    structures! { comparison:
        ibv_gid { raw, global }
        ibv_gid__bindgen_ty_1 { subnet_prefix, interface_id }
        ibv_gid_entry { gid, gid_index, port_num, gid_type, ndev_ifindex }
        ibv_device_attr {
            fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap, vendor_id, vendor_part_id, hw_ver,
            max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd,
            max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom, max_ee_init_rd_atom,
            atomic_cap, max_ee, max_rdd, max_mw, max_raw_ipv6_qp, max_raw_ethy_qp, max_mcast_grp,
            max_mcast_qp_attach, max_total_mcast_qp_attach, max_ah, max_fmr, max_map_per_fmr, max_srq,
            max_srq_wr, max_srq_sge, max_pkeys, local_ca_ack_delay, phys_port_cnt
        }
        ibv_port_attr {
            state, max_mtu, active_mtu, gid_tbl_len, port_cap_flags, max_msg_sz, bad_pkey_cntr,
            qkey_viol_cntr, pkey_tbl_len, lid, sm_lid, lmc, max_vl_num, sm_sl, subnet_timeout,
            init_type_reply, active_width, active_speed, phys_state, link_layer, flags, port_cap_flags2
        }
        ibv_async_event { element, event_type }
        ibv_async_event__bindgen_ty_1 { cq, qp, srq, wq, port_num }
        ibv_wc {
            wr_id, status, opcode, vendor_err, byte_len, qp_num, src_qp, wc_flags, pkey_index, slid, sl,
            dlid_path_bits
            ; __bindgen_anon_1 = imm_data_invalidated_rkey_union
        }
        ibv_wc__bindgen_ty_1 { imm_data, invalidated_rkey }
        ibv_mw_bind_info { mr, addr, length, mw_access_flags }
        ibv_pd { context, handle }
        ibv_mr { context, pd, addr, length, handle, lkey, rkey }
        ibv_global_route { dgid, flow_label, sgid_index, hop_limit, traffic_class }
        ibv_ah_attr { grh, dlid, sl, src_path_bits, static_rate, is_global, port_num }
        ibv_qp_cap { max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data }
        ibv_qp_init_attr { qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all }
        ibv_qp_attr {
            qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn, dest_qp_num,
            qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index, en_sqd_async_notify,
            sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt,
            rnr_retry, alt_port_num, alt_timeout, rate_limit
        }
        ibv_sge { addr, length, lkey }
        ibv_send_wr {
            wr_id, next, sg_list, num_sge, opcode, send_flags, wr, qp_type
            ; __bindgen_anon_1 = imm_data_invalidated_rkey_union; __bindgen_anon_2 = bind_mw_tso_union
        }
        ibv_send_wr__bindgen_ty_1 { imm_data; invalidate_rkey = invalidated_rkey }
        ibv_send_wr__bindgen_ty_2 { rdma, atomic, ud }
        ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr, rkey }
        ibv_send_wr__bindgen_ty_2__bindgen_ty_2 { remote_addr, compare_add, swap, rkey }
        ibv_send_wr__bindgen_ty_2__bindgen_ty_3 { ah, remote_qpn, remote_qkey }
        ibv_send_wr__bindgen_ty_3 { xrc }
        ibv_send_wr__bindgen_ty_3__bindgen_ty_1 { remote_srqn }
        ibv_send_wr__bindgen_ty_4 { bind_mw, tso }
        ibv_send_wr__bindgen_ty_4__bindgen_ty_1 { mw, rkey, bind_info }
        ibv_send_wr__bindgen_ty_4__bindgen_ty_2 { hdr, hdr_sz, mss }
        ibv_recv_wr { wr_id, next, sg_list, num_sge }
        ibv_qp {
            context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type, mutex, cond,
            events_completed
        }
        ibv_comp_channel { context, fd, refcnt }
        ibv_cq {
            context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed,
            async_events_completed
        }
        _ibv_device_ops { _dummy1, _dummy2 }
        ibv_device { _ops, node_type, transport_type, name, dev_name, dev_path, ibdev_path }
        ibv_context_ops {
            _compat_query_device, _compat_query_port, _compat_alloc_pd, _compat_dealloc_pd, _compat_reg_mr,
            _compat_rereg_mr, _compat_dereg_mr, alloc_mw, bind_mw, dealloc_mw, _compat_create_cq, poll_cq,
            req_notify_cq, _compat_cq_event, _compat_resize_cq, _compat_destroy_cq, _compat_create_srq,
            _compat_modify_srq, _compat_query_srq, _compat_destroy_srq, post_srq_recv, _compat_create_qp,
            _compat_query_qp, _compat_modify_qp, _compat_destroy_qp, post_send, post_recv, _compat_create_ah,
            _compat_destroy_ah, _compat_attach_mcast, _compat_detach_mcast, _compat_async_event
        }
        ibv_context { device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat }
        verbs_context {
            query_port, advise_mr, alloc_null_mr, read_counters, attach_counters_point_flow, create_counters,
            destroy_counters, reg_dm_mr, alloc_dm, free_dm, modify_flow_action_esp, destroy_flow_action,
            create_flow_action_esp, modify_qp_rate_limit, alloc_parent_domain, dealloc_td, alloc_td,
            modify_cq, post_srq_ops, destroy_rwq_ind_table, create_rwq_ind_table, destroy_wq, modify_wq,
            create_wq, query_rt_values, create_cq_ex, priv_, query_device_ex, ibv_destroy_flow,
            ABI_placeholder2, ibv_create_flow, ABI_placeholder1, open_qp, create_qp_ex, get_srq_num,
            create_srq_ex, open_xrcd, close_xrcd, _ABI_placeholder3, sz, context
        }
    }
    comparison.end(&declared().1);
}

#[test]
fn every_constant_has_the_value_of_the_header() {
    let mut comparison = Comparison::default();
    constants! { comparison:
        ib_uverbs_advise_mr_advice:
            IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH, IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
            IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT;
        ibv_gid_type: IBV_GID_TYPE_IB, IBV_GID_TYPE_ROCE_V1, IBV_GID_TYPE_ROCE_V2;
        ibv_node_type:
            IBV_NODE_UNKNOWN, IBV_NODE_CA, IBV_NODE_SWITCH, IBV_NODE_ROUTER, IBV_NODE_RNIC, IBV_NODE_USNIC,
            IBV_NODE_USNIC_UDP, IBV_NODE_UNSPECIFIED;
        ibv_transport_type:
            IBV_TRANSPORT_UNKNOWN, IBV_TRANSPORT_IB, IBV_TRANSPORT_IWARP, IBV_TRANSPORT_USNIC,
            IBV_TRANSPORT_USNIC_UDP, IBV_TRANSPORT_UNSPECIFIED;
        ibv_atomic_cap: IBV_ATOMIC_NONE, IBV_ATOMIC_HCA, IBV_ATOMIC_GLOB;
        ibv_mtu: IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096;
        ibv_port_state:
            IBV_PORT_NOP, IBV_PORT_DOWN, IBV_PORT_INIT, IBV_PORT_ARMED, IBV_PORT_ACTIVE,
            IBV_PORT_ACTIVE_DEFER;
        ibv_event_type:
            IBV_EVENT_CQ_ERR, IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR, IBV_EVENT_QP_ACCESS_ERR,
            IBV_EVENT_COMM_EST, IBV_EVENT_SQ_DRAINED, IBV_EVENT_PATH_MIG, IBV_EVENT_PATH_MIG_ERR,
            IBV_EVENT_DEVICE_FATAL, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_PORT_ERR, IBV_EVENT_LID_CHANGE,
            IBV_EVENT_PKEY_CHANGE, IBV_EVENT_SM_CHANGE, IBV_EVENT_SRQ_ERR, IBV_EVENT_SRQ_LIMIT_REACHED,
            IBV_EVENT_QP_LAST_WQE_REACHED, IBV_EVENT_CLIENT_REREGISTER, IBV_EVENT_GID_CHANGE,
            IBV_EVENT_WQ_FATAL;
        ibv_wc_status:
            IBV_WC_SUCCESS, IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_EEC_OP_ERR,
            IBV_WC_LOC_PROT_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_MW_BIND_ERR, IBV_WC_BAD_RESP_ERR,
            IBV_WC_LOC_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_OP_ERR,
            IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_LOC_RDD_VIOL_ERR,
            IBV_WC_REM_INV_RD_REQ_ERR, IBV_WC_REM_ABORT_ERR, IBV_WC_INV_EECN_ERR, IBV_WC_INV_EEC_STATE_ERR,
            IBV_WC_FATAL_ERR, IBV_WC_RESP_TIMEOUT_ERR, IBV_WC_GENERAL_ERR, IBV_WC_TM_ERR,
            IBV_WC_TM_RNDV_INCOMPLETE;
        ibv_wc_opcode:
            IBV_WC_SEND, IBV_WC_RDMA_WRITE, IBV_WC_RDMA_READ, IBV_WC_COMP_SWAP, IBV_WC_FETCH_ADD,
            IBV_WC_BIND_MW, IBV_WC_LOCAL_INV, IBV_WC_TSO, IBV_WC_ATOMIC_WRITE, IBV_WC_RECV,
            IBV_WC_RECV_RDMA_WITH_IMM, IBV_WC_TM_ADD, IBV_WC_TM_DEL, IBV_WC_TM_SYNC, IBV_WC_TM_RECV,
            IBV_WC_TM_NO_TAG, IBV_WC_DRIVER1, IBV_WC_DRIVER2, IBV_WC_DRIVER3;
        ibv_wc_flags:
            IBV_WC_GRH, IBV_WC_WITH_IMM, IBV_WC_IP_CSUM_OK, IBV_WC_WITH_INV, IBV_WC_TM_SYNC_REQ,
            IBV_WC_TM_MATCH, IBV_WC_TM_DATA_VALID;
        ibv_access_flags:
            IBV_ACCESS_LOCAL_WRITE, IBV_ACCESS_REMOTE_WRITE, IBV_ACCESS_REMOTE_READ,
            IBV_ACCESS_REMOTE_ATOMIC, IBV_ACCESS_MW_BIND, IBV_ACCESS_ZERO_BASED, IBV_ACCESS_ON_DEMAND,
            IBV_ACCESS_HUGETLB, IBV_ACCESS_RELAXED_ORDERING;
        ibv_mw_type: IBV_MW_TYPE_1, IBV_MW_TYPE_2;
        ibv_qp_type:
            IBV_QPT_RC, IBV_QPT_UC, IBV_QPT_UD, IBV_QPT_RAW_PACKET, IBV_QPT_XRC_SEND, IBV_QPT_XRC_RECV,
            IBV_QPT_DRIVER;
        ibv_qp_attr_mask:
            IBV_QP_STATE, IBV_QP_CUR_STATE, IBV_QP_EN_SQD_ASYNC_NOTIFY, IBV_QP_ACCESS_FLAGS,
            IBV_QP_PKEY_INDEX, IBV_QP_PORT, IBV_QP_QKEY, IBV_QP_AV, IBV_QP_PATH_MTU, IBV_QP_TIMEOUT,
            IBV_QP_RETRY_CNT, IBV_QP_RNR_RETRY, IBV_QP_RQ_PSN, IBV_QP_MAX_QP_RD_ATOMIC, IBV_QP_ALT_PATH,
            IBV_QP_MIN_RNR_TIMER, IBV_QP_SQ_PSN, IBV_QP_MAX_DEST_RD_ATOMIC, IBV_QP_PATH_MIG_STATE,
            IBV_QP_CAP, IBV_QP_DEST_QPN, IBV_QP_RATE_LIMIT;
        ibv_qp_state:
            IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QPS_SQD, IBV_QPS_SQE, IBV_QPS_ERR,
            IBV_QPS_UNKNOWN;
        ibv_mig_state: IBV_MIG_MIGRATED, IBV_MIG_REARM, IBV_MIG_ARMED;
        ibv_wr_opcode:
            IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_SEND, IBV_WR_SEND_WITH_IMM,
            IBV_WR_RDMA_READ, IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_LOCAL_INV,
            IBV_WR_BIND_MW, IBV_WR_SEND_WITH_INV, IBV_WR_TSO, IBV_WR_DRIVER1, IBV_WR_ATOMIC_WRITE;
        ibv_send_flags:
            IBV_SEND_FENCE, IBV_SEND_SIGNALED, IBV_SEND_SOLICITED, IBV_SEND_INLINE, IBV_SEND_IP_CSUM;
    }
    // An enum without a name, which `rdma-sys` leaves out: from the header itself.
    // SAFETY: `header.c` defines it, with this type, and nobody writes it.
    let header = unsafe { link_layers };
    comparison.same("IBV_LINK_LAYER_UNSPECIFIED", ffi::IBV_LINK_LAYER_UNSPECIFIED.into(), header[0]);
    comparison.same("IBV_LINK_LAYER_INFINIBAND", ffi::IBV_LINK_LAYER_INFINIBAND.into(), header[1]);
    comparison.same("IBV_LINK_LAYER_ETHERNET", ffi::IBV_LINK_LAYER_ETHERNET.into(), header[2]);
    comparison.end(&declared().0);
}

unsafe extern "C" {
    static link_layers: [i32; 3];
}

#[test]
fn every_function_has_the_signature_of_the_header() {
    let mut comparison = Comparison::default();
    functions! { comparison:
        ibv_fork_init();
        ibv_get_device_list(_);
        ibv_free_device_list(_);
        ibv_get_device_name(_);
        ibv_get_device_guid(_);
        ibv_open_device(_);
        ibv_close_device(_);
        ibv_query_device(_, _);
        ibv_query_port(_, _, _);
        ibv_query_gid(_, _, _, _);
        ibv_query_pkey(_, _, _, _);
        ibv_get_async_event(_, _);
        ibv_ack_async_event(_);
        ibv_event_type_str(_);
        ibv_port_state_str(_);
        ibv_wc_status_str(_);
        ibv_alloc_pd(_);
        ibv_dealloc_pd(_);
        ibv_reg_mr(_, _, _, _);
        ibv_dereg_mr(_);
        ibv_create_comp_channel(_);
        ibv_destroy_comp_channel(_);
        ibv_create_cq(_, _, _, _, _);
        ibv_destroy_cq(_);
        ibv_get_cq_event(_, _, _);
        ibv_ack_cq_events(_, _);
        ibv_create_qp(_, _);
        ibv_modify_qp(_, _, _);
        ibv_query_qp(_, _, _, _);
        ibv_destroy_qp(_);
    }
    // It may be missing in the library, not in the header.
    comparison.same(
        "ibv_query_qp_data_in_order",
        ours(|library| library.ibv_query_qp_data_in_order.unwrap()),
        signature(theirs::ibv_query_qp_data_in_order as unsafe extern "C" fn(_, _, _) -> _),
    );
    // `rdma-sys` leaves it out: `header.c` compares the header's with this.
    comparison.same(
        "_ibv_query_gid_ex",
        ours(|library| library._ibv_query_gid_ex),
        "unsafe extern \"C\" fn(*mut ibv_context, u32, u32, *mut ibv_gid_entry, u32, usize) -> i32"
            .to_owned(),
    );

    let text = include_str!("../../../runtime/src/verbs/library.rs");
    let start = text.find("    required {\n        ///").expect("the list of functions");
    let end = start + text[start..].find("\n}\n").expect("the list's end");
    let functions =
        text[start..end].lines().filter_map(|line| line.strip_prefix("        pub fn ")).map(word);
    comparison.end(&functions.collect());
}
