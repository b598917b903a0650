//! What an intruder does with an RDMA device.

use shard_runtime::ring::Ring;
use shard_runtime::verbs::{
    Batch, Completions, Depth, Device, Domain, QueuePair, Registration, RemoteQueuePair, Status, Wish, Work,
    choose,
};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Told = Result<String, Box<dyn Error>>;

/// The pages that the device may write.
const BYTES: usize = 64 << 10;
/// What is written at a time.
const WRITTEN: usize = 600;
/// What the owner of a window writes into it.
const OWN: u8 = 7;
/// So many keys are guessed.
const GUESSES: u32 = 32;
/// More objects than a shard may have.
const OBJECTS_MAX: usize = 8_192;

/// A pair of queue pairs that are each other's, and memory that one may write through the other.
struct Wired {
    device: Device,
    domain: Arc<Domain>,
    completions: Arc<Completions>,
    near: QueuePair,
    far: QueuePair,
    from: Registration,
    to: Registration,
    memory: shard_runtime::memory::Memory,
}

static WIRED: Mutex<Option<Wired>> = Mutex::new(None);

impl Wired {
    fn new() -> Result<Self, Box<dyn Error>> {
        let device = choose(&Wish { device: None, address: None })?;
        let domain = Domain::new(device.context())?;
        let completions = Completions::new(device.context(), 64)?;
        let (from, memory) = (bytes()?, bytes()?);
        (0..WRITTEN / 8).for_each(|at| {
            let word = u64::from_ne_bytes([OWN; 8]);
            from.word(at * 8).store(word, std::sync::atomic::Ordering::Relaxed);
        });
        let from = Registration::new(&domain, &from, 0, BYTES, false)?;
        let to = Registration::new(&domain, &memory, 0, BYTES, true)?;
        let depth = Depth { send: 8, receive: 8 };
        // Its sequence is as random as a link's.
        let near = QueuePair::new(&device, &domain, &completions, depth, random())?;
        let far = QueuePair::new(&device, &domain, &completions, depth, random())?;
        far.connect(&near.local())?;
        near.connect(&far.local())?;
        Ok(Self { device, domain, completions, near, far, from, to, memory })
    }

    /// Where its memory is, by which queue pair it is written, and what else only its partner knows.
    fn window(&self) -> String {
        let RemoteQueuePair { number, sequence, .. } = self.far.local();
        format!("{number} {sequence} {} {}", self.to.address(), self.to.remote_key())
    }

    fn write(&self, by: &QueuePair, address: u64, key: u32) -> Result<Status, Box<dyn Error>> {
        let from = Some(self.from.slice(0, WRITTEN));
        by.post(&[Work { id: 1, from, to: Some((address, key)), immediate: None, signalled: true }])?;
        let (start, mut batch) = (Instant::now(), Batch::default());
        loop {
            self.completions.poll(&mut batch)?;
            if let Some(completion) = batch.find(|completion| completion.id == 1) {
                return Ok(completion.status);
            }
            if start.elapsed() > Duration::from_secs(5) {
                return Err("no completion".into());
            }
        }
    }

    /// A queue pair that takes the owner's for its partner, which has not agreed to that.
    fn intruder(&self, number: u32, sequence: u32) -> Result<QueuePair, Box<dyn Error>> {
        let depth = Depth { send: 8, receive: 8 };
        let pair = QueuePair::new(&self.device, &self.domain, &self.completions, depth, sequence)?;
        pair.connect(&RemoteQueuePair { number, sequence: random(), ..self.near.local() })?;
        Ok(pair)
    }
}

fn bytes() -> Result<shard_runtime::memory::Memory, Box<dyn Error>> {
    Ok(Ring::create("window", BYTES)?.map(true)?)
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without it the kernel has none, and no key was random either.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes) & 0xff_ffff
}

/// Does what a message asks for.
pub fn ask(verb: &str, what: &str) -> Told {
    let mut wired = WIRED.lock().unwrap_or_else(PoisonError::into_inner);
    if verb == "rdma-open" {
        return Ok(wired.insert(Wired::new()?).window());
    }
    if verb == "rdma-hoard" {
        return hoard();
    }
    let own = wired.as_ref().ok_or("rdma-open comes first")?;
    let said = |status: Status| {
        if status == Status::SUCCESS { Ok(status.to_string()) } else { Err(status.to_string().into()) }
    };
    if verb == "rdma-write" {
        return said(own.write(&own.near, own.to.address(), own.to.remote_key())?);
    }
    if verb == "rdma-look" {
        let word = u64::from_ne_bytes([OWN; 8]);
        let own_words = (0..BYTES / 8)
            .filter(|at| {
                let there = own.memory.word(at * 8).load(std::sync::atomic::Ordering::Relaxed);
                there == if *at < WRITTEN / 8 { word } else { 0 }
            })
            .count();
        return if own_words == BYTES / 8 {
            Ok(format!("{WRITTEN} bytes are its own"))
        } else {
            Err(format!("{} words are not", BYTES / 8 - own_words).into())
        };
    }
    let numbers: Vec<u64> = what.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let &[number, _sequence, address, key] = numbers.as_slice() else { return Err("four numbers".into()) };
    // Behind what the owner has written, so that it would be seen.
    let (address, number, key) = (address + WRITTEN as u64 * 2, number as u32, key as u32);
    match verb {
        // The owner's very key, through a queue pair of one's own.
        "rdma-key" => said(own.write(&own.near, address, key)?),
        // Keys near one's own, each through a new pair, because a refusal breaks it.
        "rdma-guess" => {
            let mut last = Err("nothing was tried".into());
            for _ in 0..GUESSES {
                let fresh = Wired::new()?;
                // The next object and any of the eight random bits.
                let key = fresh.to.remote_key().wrapping_add(random() & 0x3ff).wrapping_sub(0x200);
                if key == fresh.to.remote_key() {
                    continue;
                }
                last = said(fresh.write(&fresh.near, address, key)?);
                if last.is_ok() {
                    break;
                }
            }
            last
        }
        // The owner's key and queue pair, as if one were its partner, but for the number of the next packet.
        "rdma-intrude" => {
            let pair = own.intruder(number, random())?;
            said(own.write(&pair, address, key)?)
        }
        _ => Err("no such verb".into()),
    }
}

/// Completion queues until the device or the control group says no; then they are given back.
fn hoard() -> Told {
    let device = choose(&Wish { device: None, address: None })?;
    let mut all = Vec::new();
    for _ in 0..OBJECTS_MAX {
        match Completions::new(device.context(), 1) {
            Ok(one) => all.push(one),
            Err(error) => {
                let told = format!("{} objects, then: {error}", all.len());
                // They stay as long as this process lives.
                std::mem::forget(all);
                return Ok(told);
            }
        }
    }
    Err("there is no end".into())
}
