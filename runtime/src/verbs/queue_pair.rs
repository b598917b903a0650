//! A reliable connection to one peer.
//!
//! ```text
//!        new            connect: RTR, RTS            break_off            drained
//!  RESET ───▶ INIT ───────────────────────▶ RTS ───────────────▶ ERROR ───────────▶ destroyed
//!              └ receive requests            └ any error ─────────▲
//!                are posted                    leads here too
//! ```
//!
//! Invariant: a queue pair is destroyed only in the state ERROR and after every request was completed, or with its
//! completions no longer wanted: destroying earlier discards requests silently (IBA
//! vol. 1, chapter 10, "queue pair states", of RESET and of destroying).

use super::{Completions, Device, Domain, Slice, VerbsError, ffi};
use serde::{Deserialize, Serialize};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// How often a packet is sent again before the peer is given up. 7 would be for ever on some devices.
const RETRIES: u8 = 3;
/// 4.096 µs · 2^12 ≈ 17 ms: so long a packet is waited for, at least, and up to four times as long (IBA
/// vol. 1, chapter 9, "detecting lost acknowledge messages").
const TIMEOUT: u8 = 12;
/// A peer that is not ready has broken our protocol: one retry is for luck.
const NOT_READY_RETRIES: u8 = 1;
/// 0.64 ms between them (IBA vol. 1, chapter 9, "encoding for RNR NAK timer field").
const NOT_READY_TIMER: u8 = 12;
/// The largest payload that travels within the request; what the device does not grant is asked for in halves.
const INLINE_BYTES: u32 = 512;
const PORT_SPACE_HOPS: u8 = 64;
/// Packet sequence numbers have 24 bits.
const SEQUENCE_BITS: u32 = 0xff_ffff;

/// How many requests of each kind may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Sends and writes.
    pub send: u32,
    /// Receives.
    pub receive: u32,
}

/// What a peer has to know of a queue pair to connect to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteQueuePair {
    /// The address of its port.
    pub gid: [u8; 16],
    /// Its number.
    pub number: u32,
    /// The first packet's number: random, so that packets of others are not taken for ours.
    pub sequence: u32,
    /// The largest packet that its port takes, as the specification codes it: 1 for 256 bytes to 5 for 4,096.
    pub mtu: u32,
}

/// A request that sends.
#[derive(Clone, Copy)]
pub struct Work {
    /// Its number in the completion.
    pub id: u64,
    /// What is sent; nothing if none.
    pub from: Option<Slice>,
    /// Where it goes in the peer's memory: address and key. None: a message without place.
    pub to: Option<(u64, u32)>,
    /// 32 bits for the peer; none: a write that it does not notice.
    pub immediate: Option<u32>,
    /// Whether its success is reported; a failure always is.
    pub signalled: bool,
}

/// A reliable connection.
pub struct QueuePair {
    domain: Arc<Domain>,
    _completions: Arc<Completions>,
    handle: NonNull<ffi::ibv_qp>,
    sequence: u32,
    inline_bytes: u32,
    device: Device,
}

// SAFETY: verbs may be called from any thread; the handle is only passed to them.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A queue pair that takes receive requests, and nothing from any peer yet.
    ///
    /// # Errors
    /// The device has no more, or not so deep ones.
    pub fn new(
        device: &Device,
        domain: &Arc<Domain>,
        completions: &Arc<Completions>,
        depth: Depth,
        sequence: u32,
    ) -> Result<Self, VerbsError> {
        let verbs = domain.context.library;
        let mut inline_bytes = INLINE_BYTES;
        let handle = loop {
            let mut attributes = ffi::ibv_qp_init_attr {
                send_cq: completions.handle.as_ptr(),
                recv_cq: completions.handle.as_ptr(),
                cap: ffi::ibv_qp_cap {
                    max_send_wr: depth.send,
                    max_recv_wr: depth.receive,
                    max_send_sge: 1,
                    max_recv_sge: 1,
                    max_inline_data: inline_bytes,
                },
                qp_type: ffi::IBV_QPT_RC,
                ..ffi::ibv_qp_init_attr::default()
            };
            // SAFETY: domain and queue are alive, and held below; the structure is read, and its limits written.
            let handle = unsafe { (verbs.ibv_create_qp)(domain.handle.as_ptr(), &raw mut attributes) };
            match NonNull::new(handle) {
                Some(handle) => {
                    inline_bytes = attributes.cap.max_inline_data;
                    break handle;
                }
                None if inline_bytes > 0 => inline_bytes /= 2,
                None => return Err(VerbsError::last("ibv_create_qp")),
            }
        };
        let pair = Self {
            domain: Arc::clone(domain),
            _completions: Arc::clone(completions),
            handle,
            sequence: sequence & SEQUENCE_BITS,
            inline_bytes,
            device: device.clone(),
        };
        let mut init = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_INIT,
            port_num: device.port,
            // The peer may write where a registration allows it, and never read.
            qp_access_flags: ffi::IBV_ACCESS_REMOTE_WRITE,
            ..ffi::ibv_qp_attr::default()
        };
        let mask = ffi::IBV_QP_STATE | ffi::IBV_QP_PKEY_INDEX | ffi::IBV_QP_PORT | ffi::IBV_QP_ACCESS_FLAGS;
        pair.modify("ibv_modify_qp(INIT)", &mut init, mask)?;
        Ok(pair)
    }

    /// What the peer has to know of it.
    pub fn local(&self) -> RemoteQueuePair {
        RemoteQueuePair {
            gid: self.device.gid(),
            number: self.number(),
            sequence: self.sequence,
            mtu: self.device.mtu.0,
        }
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { (*self.handle.as_ptr()).qp_num }
    }

    /// So many bytes travel within a request.
    pub fn inline_bytes(&self) -> usize {
        self.inline_bytes as usize
    }

    /// Connects to the peer's queue pair. The smaller packet of both ports is used.
    ///
    /// # Errors
    /// There is no way to the peer's address, or what it says of itself is impossible.
    pub fn connect(&self, peer: &RemoteQueuePair) -> Result<(), VerbsError> {
        let mut ready_to_receive = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_RTR,
            path_mtu: ffi::ibv_mtu(peer.mtu.clamp(ffi::IBV_MTU_256.0, self.device.mtu.0)),
            dest_qp_num: peer.number & SEQUENCE_BITS,
            rq_psn: peer.sequence & SEQUENCE_BITS,
            max_dest_rd_atomic: 0,
            min_rnr_timer: NOT_READY_TIMER,
            ..ffi::ibv_qp_attr::default()
        };
        let address = &mut ready_to_receive.ah_attr;
        address.is_global = 1;
        address.port_num = self.device.port;
        address.grh.dgid = ffi::ibv_gid { raw: peer.gid };
        address.grh.sgid_index = self.device.gid_index;
        address.grh.hop_limit = PORT_SPACE_HOPS;
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_AV
            | ffi::IBV_QP_PATH_MTU
            | ffi::IBV_QP_DEST_QPN
            | ffi::IBV_QP_RQ_PSN
            | ffi::IBV_QP_MAX_DEST_RD_ATOMIC
            | ffi::IBV_QP_MIN_RNR_TIMER;
        self.modify("ibv_modify_qp(RTR)", &mut ready_to_receive, mask)?;
        let mut ready_to_send = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_RTS,
            sq_psn: self.sequence,
            timeout: TIMEOUT,
            retry_cnt: RETRIES,
            rnr_retry: NOT_READY_RETRIES,
            max_rd_atomic: 0,
            ..ffi::ibv_qp_attr::default()
        };
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_SQ_PSN
            | ffi::IBV_QP_TIMEOUT
            | ffi::IBV_QP_RETRY_CNT
            | ffi::IBV_QP_RNR_RETRY
            | ffi::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify("ibv_modify_qp(RTS)", &mut ready_to_send, mask)
    }

    /// Puts it into the state ERROR: all requests under way are completed as flushed
    /// (IBA vol. 1, chapter 10, "queue pair states", ERROR).
    ///
    /// # Errors
    /// The device failed.
    pub fn break_off(&self) -> Result<(), VerbsError> {
        let mut error = ffi::ibv_qp_attr { qp_state: ffi::IBV_QPS_ERR, ..ffi::ibv_qp_attr::default() };
        self.modify("ibv_modify_qp(ERR)", &mut error, ffi::IBV_QP_STATE)
    }

    /// Posts requests, in order, with one doorbell.
    ///
    /// # Errors
    /// The send queue is full, which is ours to avoid, or the device failed. None, or some of the first, were posted.
    #[inline]
    pub fn post(&self, work: &[Work]) -> Result<(), VerbsError> {
        const CHAIN: usize = 4;
        for work in work.chunks(CHAIN) {
            let mut slices = [ffi::ibv_sge::default(); CHAIN];
            let mut requests = [const { std::mem::MaybeUninit::<ffi::ibv_send_wr>::uninit() }; CHAIN];
            for (at, work) in work.iter().enumerate() {
                let request = requests[at].write(ffi::ibv_send_wr::default());
                request.wr_id = work.id;
                request.opcode = match (work.to, work.immediate) {
                    (Some(_), Some(_)) => ffi::IBV_WR_RDMA_WRITE_WITH_IMM,
                    (Some(_), None) => ffi::IBV_WR_RDMA_WRITE,
                    (None, Some(_)) => ffi::IBV_WR_SEND_WITH_IMM,
                    (None, None) => ffi::IBV_WR_SEND,
                };
                request.__bindgen_anon_1.imm_data = work.immediate.unwrap_or(0).to_be();
                request.send_flags = if work.signalled { ffi::IBV_SEND_SIGNALED } else { 0 };
                if let Some((remote_addr, rkey)) = work.to {
                    request.wr.rdma = ffi::ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr, rkey };
                }
                if let Some(slice) = work.from {
                    slices[at] = slice.0;
                    request.sg_list = &raw mut slices[at];
                    request.num_sge = 1;
                    if slice.0.length <= self.inline_bytes {
                        request.send_flags |= ffi::IBV_SEND_INLINE;
                    }
                }
            }
            let (first, mut bad) = (requests.as_mut_ptr().cast::<ffi::ibv_send_wr>(), null_mut());
            // SAFETY: the first `work.len()` requests were written; each points to the next of them or to none, and to
            // a slice that lives until the call returns. The bytes that slices name belong to live registrations, or
            // the device refuses them.
            let number = unsafe {
                for at in 1..work.len() {
                    (*first.add(at - 1)).next = first.add(at);
                }
                ffi::ibv_post_send(self.handle.as_ptr(), first, &raw mut bad)
            };
            VerbsError::of_number("ibv_post_send", number)?;
        }
        Ok(())
    }

    /// Posts `count` receive requests for messages without bytes, all with number `id`.
    ///
    /// # Errors
    /// The receive queue is full, which is ours to avoid, or the device failed.
    #[inline]
    pub fn post_receives(&self, id: u64, mut count: u32) -> Result<(), VerbsError> {
        const CHAIN: usize = 16;
        while count > 0 {
            let mut requests =
                [ffi::ibv_recv_wr { wr_id: id, next: null_mut(), sg_list: null_mut(), num_sge: 0 }; CHAIN];
            let now = (count as usize).min(CHAIN);
            let (first, mut bad) = (requests.as_mut_ptr(), null_mut());
            // SAFETY: each of the first `now` requests points to the next of them, the last to none.
            let number = unsafe {
                for at in 1..now {
                    (*first.add(at - 1)).next = first.add(at);
                }
                ffi::ibv_post_recv(self.handle.as_ptr(), first, &raw mut bad)
            };
            VerbsError::of_number("ibv_post_recv", number)?;
            count -= now as u32;
        }
        Ok(())
    }

    fn modify(
        &self,
        call: &'static str,
        attributes: &mut ffi::ibv_qp_attr,
        mask: ffi::ibv_qp_attr_mask,
    ) -> Result<(), VerbsError> {
        let verbs = self.domain.context.library;
        // SAFETY: the queue pair is alive; the structure is read.
        let number = unsafe { (verbs.ibv_modify_qp)(self.handle.as_ptr(), attributes, mask as i32) };
        VerbsError::of_number(call, number)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, before its domain and its completion queue.
        unsafe { (self.domain.context.library.ibv_destroy_qp)(self.handle.as_ptr()) };
    }
}
