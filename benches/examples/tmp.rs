//! tmp
use shard_bench::bare::ring::*; use shard_bench::memory::Shared; use shard_bench::channel::*; use std::time::Instant;
use shard_bench::peer::End;
fn main(){
  for bytes in [40usize,64,1024]{
  let shape=Shape::new(bytes,1<<18,32);
  let m=Shared::create(RingPair::memory_bytes(shape)).unwrap();
  let (mut n,mut f)=(RingPair::near(&m,shape),RingPair::far(&m,shape));
  let mut b=vec![0u8;bytes]; let mut c=vec![0u8;bytes];
  for stamp in [false,true]{
  let t=Instant::now(); let rounds=20000u64;
  let (mut ts,mut tr)=(0u128,0u128);
  for r in 0..rounds { let s=Instant::now(); for i in 0..32{ if stamp { b[..8].copy_from_slice(&(r*32+i).to_le_bytes()); b[bytes-8..].copy_from_slice(&(r*32+i).to_le_bytes());} n.send(&b).unwrap(); } ts+=s.elapsed().as_nanos(); let s=Instant::now(); for _ in 0..32{ f.receive(&mut c).unwrap(); if stamp { std::hint::black_box(u64::from_le_bytes(c[..8].try_into().unwrap())); } } tr+=s.elapsed().as_nanos();}
  println!("{bytes} stamp {stamp}: send {:.1} receive {:.1} total {:.1}", ts as f64/rounds as f64/32., tr as f64/rounds as f64/32., t.elapsed().as_nanos() as f64/rounds as f64/32.);
  }
  }
  let _ = |d:&mut Duplex<RingPair>| d.send_all(1);
}
