//! Messages there and back by SEND and RECV through the safe crate `ibverbs`: what a Rust program would use otherwise.
//! Two programs, each with its own queue pair on the first device: one listens and echoes, one connects and asks. They
//! tell each other of their queue pairs over TCP. The one that connects prints one line of JSON: half round trips in
//! nanoseconds, and messages a second.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const SENT: u64 = 1;
const RECEIVED: u64 = 2;
const USAGE: &str = "usage: ibverbs-peer BYTES COUNT GID_INDEX listen|connect ADDRESS";

/// Tells the other program something and hears as much.
fn exchange(lines: &mut BufReader<TcpStream>, what: &str) -> Outcome<String> {
    lines.get_mut().write_all(format!("{what}\n").as_bytes())?;
    let mut line = String::new();
    lines.read_line(&mut line)?;
    Ok(line)
}

/// One end: sends first if it `asks`. Returns the half round trips.
fn end(asks: bool, [bytes, count, gid]: [usize; 3], other: TcpStream) -> Outcome<Vec<u64>> {
    let mut other = BufReader::new(other);
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
    let theirs = exchange(&mut other, &serde_json::to_string(&builder.endpoint())?)?;
    let mut pair = builder.handshake(serde_json::from_str(&theirs)?)?;
    let mut memory = domain.allocate::<u8>(2 * bytes)?;
    // SAFETY: memory and pair live until the last completion was taken, and nobody reads the bytes meanwhile.
    unsafe { pair.post_receive(&mut memory, ..bytes, RECEIVED)? };
    exchange(&mut other, "ready")?;
    let mut times = Vec::with_capacity(count);
    let mut completions = [ibverbs::ibv_wc::default(); 16];
    let (mut sent, mut received) = (0, 0);
    for number in 1..=count {
        let start = Instant::now();
        if asks {
            // SAFETY: as above.
            unsafe { pair.post_send(&mut memory, bytes.., SENT)? };
        }
        while sent < number || received < number {
            for completion in queue.poll(&mut completions)? {
                if let Some((status, _)) = completion.error() {
                    return Err(format!("a request failed: {status:?}").into());
                }
                if completion.wr_id() == SENT {
                    sent += 1;
                    continue;
                }
                received += 1;
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
    exchange(&mut other, "done")?;
    Ok(times)
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [numbers @ .., role, address] = arguments.as_slice() else { return Err(USAGE.into()) };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let numbers: [usize; 3] = numbers.try_into().map_err(|_| USAGE)?;
    if role == "listen" {
        let listener = TcpListener::bind(address)?;
        println!("listening");
        end(false, numbers, listener.accept()?.0)?;
        return Ok(());
    }
    let other = TcpStream::connect(address)?;
    let mut times = end(true, numbers, other)?;
    let messages_per_s = numbers[1] as f64 * 1e9 / (2 * times.iter().sum::<u64>()) as f64;
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
