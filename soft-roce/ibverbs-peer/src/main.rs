//! Messages there and back by SEND and RECV through the safe crate `ibverbs`: what a Rust program would use otherwise.
//! Two threads, each with its own queue pair on the first device. Arguments: bytes of a message, how many, the entry of
//! the address table. Prints one line of JSON: half round trips in nanoseconds, and messages a second.

use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Endpoint = ibverbs::QueuePairEndpoint;

const SENT: u64 = 1;
const RECEIVED: u64 = 2;

/// One end: sends first if it `asks`. Returns the half round trips.
fn end(
    asks: bool,
    [bytes, count, gid]: [usize; 3],
    say: &Sender<Endpoint>,
    hear: &Receiver<Endpoint>,
    ready: &Sender<()>,
    other: &Receiver<()>,
) -> Outcome<Vec<u64>> {
    let devices = ibverbs::devices()?;
    let context = devices.get(0).ok_or("no RDMA device")?.open()?;
    let queue = context.create_cq(64, 0)?;
    let domain = context.alloc_pd()?;
    let builder = domain
        .create_qp(&queue, &queue, ibverbs::ibv_qp_type::IBV_QPT_RC)
        .set_gid_index(gid as u32)
        .set_max_send_wr(16)
        .set_max_recv_wr(16)
        .build()?;
    say.send(builder.endpoint())?;
    let mut pair = builder.handshake(hear.recv()?)?;
    let mut memory = domain.allocate::<u8>(2 * bytes)?;
    // SAFETY: memory and pair live until the last completion was taken, and nobody reads the bytes meanwhile.
    unsafe { pair.post_receive(&mut memory, ..bytes, RECEIVED)? };
    ready.send(())?;
    other.recv()?;
    let mut times = Vec::with_capacity(count);
    let mut completions = [ibverbs::ibv_wc::default(); 16];
    for _ in 0..count {
        let start = Instant::now();
        let (mut sent, mut received) = (false, false);
        if asks {
            // SAFETY: as above.
            unsafe { pair.post_send(&mut memory, bytes.., SENT)? };
        }
        while !sent || !received {
            for completion in queue.poll(&mut completions)? {
                if let Some((status, _)) = completion.error() {
                    return Err(format!("a request failed: {status:?}").into());
                }
                if completion.wr_id() == SENT {
                    sent = true;
                    continue;
                }
                received = true;
                // SAFETY: as above.
                unsafe { pair.post_receive(&mut memory, ..bytes, RECEIVED)? };
                if !asks {
                    // SAFETY: as above.
                    unsafe { pair.post_send(&mut memory, bytes.., SENT)? };
                }
            }
        }
        times.push(start.elapsed().as_nanos() as u64 / 2);
    }
    Ok(times)
}

fn main() -> Outcome<()> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let arguments: [usize; 3] =
        arguments.try_into().map_err(|_| "usage: ibverbs-peer BYTES COUNT GID_INDEX")?;
    let ((a_says, b_hears), (b_says, a_hears)) = (channel(), channel());
    let ((a_ready, b_waits), (b_ready, a_waits)) = (channel(), channel());
    let echo = thread::spawn(move || end(false, arguments, &b_says, &b_hears, &b_ready, &b_waits));
    let start = Instant::now();
    let mut times = end(true, arguments, &a_says, &a_hears, &a_ready, &a_waits)?;
    let messages_per_s = arguments[1] as f64 / start.elapsed().as_secs_f64();
    echo.join().map_err(|_| "the echo ended")??;
    times.sort_unstable();
    let of = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{{\"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{},\"messages_per_s\":{messages_per_s}}}",
        of(0.5),
        of(0.99),
        of(0.999)
    );
    Ok(())
}
