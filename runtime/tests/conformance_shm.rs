//! Kind `shm` keeps every promise of a link. `SHARD_CHECK` picks checks by name, `SHARD_SEED` plays one again.

use shard_runtime::conformance::{End, Ends, LinkKind, run_all};
use shard_runtime::id::LinkId;
use shard_runtime::inbox::{Inbound, Inbox};
use shard_runtime::outbox::{Outbound, Outbox};
use shard_runtime::ring::{Ring, RingReader, RingWriter};
use shard_runtime::wake::{Bell, Ringer, create_bell};

/// Two ends on one host: the sender stores right into the receiver's ring.
struct Shm;

impl LinkKind for Shm {
    type Carrier = ();

    const NAME: &'static str = "shm";

    fn connect(&self, links: u16, capacity: usize, message_bytes_max: usize) -> Ends<()> {
        let bells = [create_bell("sender").unwrap(), create_bell("receiver").unwrap()];
        let mut ends = bells.each_ref().map(|bell| End {
            inbox: Inbox::new(Bell::map(bell).unwrap()),
            outbox: Outbox::new(),
            rings: Vec::new(),
            carrier: (),
        });
        let [of_sender, of_receiver] = bells.each_ref().map(|bell| Ringer::map(bell).unwrap());
        for link in (0..links).map(LinkId) {
            let region = Ring::create("ring", capacity).unwrap();
            let ring = || Ring::new(region.map(true).unwrap(), capacity);
            let [sender, receiver] = &mut ends;
            let writer = RingWriter::new(ring());
            sender.outbox.attach(link, Outbound::new(writer, of_receiver.clone(), link, message_bytes_max));
            let reader = RingReader::new(ring());
            receiver.inbox.attach(link, Inbound::new(reader, of_sender.clone(), message_bytes_max));
            ends.iter_mut().for_each(|end| end.rings.push(region.map(true).unwrap()));
        }
        let [sender, receiver] = ends;
        Ends { sender, receiver }
    }
}

#[test]
fn shm_keeps_every_promise() {
    run_all(&Shm);
}
