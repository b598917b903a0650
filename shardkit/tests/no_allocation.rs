//! From handler to handler nothing is allocated.

#[allow(dead_code, reason = "this test needs little of it")]
mod house;

use house::{House, application};
use shard_runtime::stats::Counter;
use shardkit::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use zerocopy::{FromBytes, Immutable, IntoBytes};

struct Counting;

thread_local! {
    /// What this thread allocated: the test's own, not those of the harness around it.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MANIFEST: &str = r#"
[application]
name = "ask"
[component.caller]
program = "caller"
out.small = "callee.small"
out.large = "callee.large"
out.note = "callee.note"
[component.callee]
program = "callee"
in.small = { type = "Small", reply = "Small" }
in.large = { type = "Large", reply = "Large" }
in.note = { type = "Note", reply = "Note" }
"#;
const SESSION: SessionId = SessionId::new(1, 1);
const MESSAGES: u64 = 100_000;
const IN_FLIGHT: u64 = 4;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Small([u64; 8]);

impl Wire for Small {
    const NAME: &'static str = "Small";
    type Codec = Pod;
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Large([u64; 128]);

impl Wire for Large {
    const NAME: &'static str = "Large";
    type Codec = Pod;
}

/// About 1 KiB through serde.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Note([[u64; 16]; 8]);

impl Wire for Note {
    const NAME: &'static str = "Note";
    type Codec = Postcard;
}

const SMALL: Small = Small([u64::MAX; 8]);
const LARGE: Large = Large([u64::MAX; 128]);
const NOTE: Note = Note([[u64::MAX; 16]; 8]);

#[derive(Clone, Copy, Debug)]
enum What {
    Small,
    Large,
    Note,
}

struct Caller {
    small: Out<Small, Small>,
    large: Out<Large, Large>,
    note: Out<Note, Note>,
    answers: u64,
    /// So many answers are not followed by another question.
    surplus: u64,
}

impl Caller {
    fn ask(&self, what: What, ctx: &mut Context<'_>) -> Result<(), SendError> {
        match what {
            What::Small => ctx.send(&self.small, SESSION, &SMALL),
            What::Large => ctx.call(&self.large, SESSION, &LARGE).map(|_| ()),
            What::Note => ctx.send(&self.note, SESSION, &NOTE),
        }
    }
}

impl Shard for Caller {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        self.answers += 1;
        if self.surplus > 0 {
            self.surplus -= 1;
            return Ok(());
        }
        if self.small.answer(&message)?.is_some() {
            self.ask(What::Small, ctx)?;
        } else if self.large.answer(&message)?.is_some() {
            self.ask(What::Large, ctx)?;
        } else if self.note.answer(&message)?.is_some() {
            self.ask(What::Note, ctx)?;
        }
        Ok(())
    }
}

struct Callee {
    small: In<Small, Small>,
    large: In<Large, Large>,
    note: In<Note, Note>,
}

impl Shard for Callee {
    fn on_message(&mut self, message: Message<'_>, ctx: &mut Context<'_>) -> Result<()> {
        if let Some(value) = self.small.read(&message)? {
            ctx.answer(&self.small, &message, &value)?;
        } else if let Some(value) = self.large.read(&message)? {
            ctx.answer(&self.large, &message, &value)?;
        } else if let Some(value) = self.note.read(&message)? {
            ctx.answer(&self.note, &message, &value)?;
        }
        Ok(())
    }
}

#[test]
fn a_typed_message_goes_from_handler_to_handler_and_back_without_an_allocation() {
    for what in [What::Small, What::Large, What::Note] {
        let mut house = House::new(application(MANIFEST), 16 << 10);
        house.open(SESSION, &["caller", "callee"]);
        let (from, to) = (house.config("caller"), house.config("callee"));
        let mut caller = Caller {
            small: from.output("small").unwrap(),
            large: from.output("large").unwrap(),
            note: from.output("note").unwrap(),
            answers: 0,
            surplus: 0,
        };
        let mut callee = Callee {
            small: to.input("small").unwrap(),
            large: to.input("large").unwrap(),
            note: to.input("note").unwrap(),
        };
        // Both outboxes are used once, so that they have their room: a ring can be full at any time.
        let mut asked = 0;
        while house.page("caller").counter(Counter::OutboxWaiting) < 2 * IN_FLIGHT {
            caller.ask(what, &mut house.end("caller").context()).unwrap();
            asked += 1;
        }
        for _ in 0..asked {
            house.end("caller").context().flush();
            house.end("callee").poll(&mut callee);
        }
        assert!(house.page("callee").counter(Counter::OutboxWaiting) >= IN_FLIGHT, "{what:?}");
        caller.surplus = asked - IN_FLIGHT;
        let mut rounds = 0;
        let mut round = || {
            rounds += 1;
            assert!(rounds < 10 * MESSAGES, "{what:?}: messages were lost");
            house.end("caller").poll(&mut caller);
            house.end("callee").poll(&mut callee);
            house.end("callee").publish_counts();
            caller.answers
        };
        while round() < asked + 1_000 {}
        let before = ALLOCATIONS.get();
        while round() < asked + 1_000 + MESSAGES {}
        assert_eq!(ALLOCATIONS.get() - before, 0, "{what:?}");
    }
}
