//! One match, from composing its session to its picture, on a thread of its own.

use super::board::{Board, Slot, Stage};
use super::is_stopped;
use super::people::Person;
use super::plan::Plan;
use arena::ai::Grid;
use arena::messages::*;
use arena::physics::MatchConfig;
use shard_composer::{Composer, Mail, ReceiveError, Session};
use shardkit::prelude::*;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take to come: a poster has many pictures, and draws them beside those of other matches.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a waiting thread looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long the shards may take to let go of a match.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the stranger guesses.
const GUESSES_MAX: u32 = 6;

/// The embedder's ports.
pub(super) struct Ports {
    login: Out<Login, Verdict>,
    loadout: Out<LoadoutRequest, LoadoutReply>,
    config: Out<MatchConfig>,
    join: Out<Join, JoinReply>,
    begin: Out<Begin>,
    input: Out<Input>,
    frame: Out<FrameRequest, Frame>,
    poster: Out<PosterRequest, Poster>,
    start: In<Start>,
    world: In<World>,
    report: In<MatchReport>,
}

impl Ports {
    pub(super) fn open(composer: &Composer) -> Result<Self> {
        Ok(Self {
            login: composer.output("login")?,
            loadout: composer.output("loadout")?,
            config: composer.output("config")?,
            join: composer.output("join")?,
            begin: composer.output("begin")?,
            input: composer.output("input")?,
            frame: composer.output("frame")?,
            poster: composer.output("poster")?,
            start: composer.input("start")?,
            world: composer.input("world")?,
            report: composer.input("report")?,
        })
    }
}

/// What is left of a match.
pub(super) struct Outcome {
    pub(super) number: usize,
    pub(super) report: MatchReport,
    pub(super) poster: Poster,
    pub(super) composed: Duration,
    pub(super) cold_shards: u16,
    pub(super) inputs: u64,
}

/// The run was stopped from outside.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(super) struct Stopped;

/// Plays a match when its time has come.
pub(super) fn play(
    composer: &Composer,
    ports: &Ports,
    plan: &Plan,
    board: &Board,
    stop: &AtomicBool,
) -> Result<Outcome> {
    let slot = &board.slots[plan.number - 1];
    let played = wait_for_turn(board, plan, stop).and_then(|()| {
        let begin = Instant::now();
        let session = composer.compose("default")?;
        let composed = begin.elapsed();
        slot.change(|s| (s.stage, s.composed) = (Stage::Lobby, Some(composed)));
        Table { session, ports, plan, board, slot, stop, composed }.play()
    });
    slot.change(|s| s.stage = if played.is_ok() { Stage::Done } else { Stage::Failed });
    played
}

fn wait_for_turn(board: &Board, plan: &Plan, stop: &AtomicBool) -> Result<()> {
    loop {
        let left = plan.after.saturating_sub(board.begin.elapsed());
        if is_stopped(stop) {
            return Err(Stopped.into());
        }
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}

/// A match and everything around it.
struct Table<'a> {
    session: Session,
    ports: &'a Ports,
    plan: &'a Plan,
    board: &'a Board,
    slot: &'a Slot,
    stop: &'a AtomicBool,
    composed: Duration,
}

impl Table<'_> {
    fn play(self) -> Result<Outcome> {
        self.session.send(&self.ports.config, &self.plan.config)?;
        if self.plan.guesser {
            self.guess()?;
        }
        for name in &self.plan.people {
            self.seat(name)?;
        }
        self.session.send(&self.ports.begin, &Begin)?;
        let start = self.await_start()?;
        self.slot.change(|s| s.stage = Stage::Playing);
        let report = self.run(&start)?;
        self.slot.change(|s| (s.stage, s.tick) = (Stage::Drawing, report.ticks));
        let poster = self.ask(&self.ports.poster, &PosterRequest { highlights: self.plan.highlights })?;
        let outcome = Outcome {
            number: self.plan.number,
            report,
            poster,
            composed: self.composed,
            cold_shards: self.session.cold_shards(),
            inputs: self.slot.inputs(),
        };
        if !self.session.end(END_TIMEOUT) {
            return Err(Error::new(format!("its shards did not let go of it within {END_TIMEOUT:?}")));
        }
        Ok(outcome)
    }

    /// Login, loadout, seat.
    fn seat(&self, name: &str) -> Result<()> {
        let ticket = self.log_in(name)?;
        let request = LoadoutRequest { ticket, action: Action::Show };
        let loadout = match self.ask(&self.ports.loadout, &request)? {
            LoadoutReply::Ok { loadout, .. } => loadout,
            LoadoutReply::Refused(why) => return Err(Error::new(format!("no loadout for {name}: {why}"))),
        };
        match self.ask(&self.ports.join, &Join { ticket, name: name.into(), loadout })? {
            JoinReply::Seated => Ok(()),
            JoinReply::Refused(why) => Err(Error::new(format!("no seat for {name}: {why}"))),
        }
    }

    fn log_in(&self, name: &str) -> Result<Ticket> {
        let password = format!("{name}-plays");
        let slips = self.plan.typo && self.plan.people.first() == Some(&name);
        if slips && self.verdict(name, "pasword")? == Verdict::Denied {
            self.board.note(format!("auth   {name} mistypes the password: denied, and tries again"));
        }
        loop {
            match self.verdict(name, &password)? {
                Verdict::Ok(ticket) => return Ok(ticket),
                Verdict::Denied => {
                    return Err(Error::new(format!("{name} is denied with the right password")));
                }
                Verdict::Throttled { retry_ms } => {
                    self.board.note(format!("auth   {name} has to wait {retry_ms} ms"));
                    thread::sleep(Duration::from_millis(retry_ms));
                }
            }
        }
    }

    fn verdict(&self, name: &str, password: &str) -> Result<Verdict> {
        self.ask(&self.ports.login, &Login { name: name.into(), password: password.into() })
    }

    /// A stranger guesses a password until auth has enough of it.
    fn guess(&self) -> Result<()> {
        for n in 1..=GUESSES_MAX {
            if let Verdict::Throttled { retry_ms } = self.verdict("mallory", &format!("guess {n}"))? {
                let guesses = n - 1;
                let event = format!(
                    "auth   a stranger guesses a password: denied {guesses} times, then held off for {retry_ms} ms"
                );
                self.board.note(event);
                return Ok(());
            }
        }
        Err(Error::new(format!("auth let a stranger guess {GUESSES_MAX} times")))
    }

    fn await_start(&self) -> Result<Start> {
        loop {
            if let Some(start) = self.ports.start.read(&self.receive()?.message())? {
                return Ok(start);
            }
        }
    }

    /// Answers each world with the people's inputs, until the report comes.
    fn run(&self, start: &Start) -> Result<MatchReport> {
        let (grid, mut people) = (Grid::new(&start.map), Person::all(start));
        loop {
            let mail = self.receive()?;
            let message = mail.message();
            if let Some(world) = self.ports.world.read(&message)? {
                for person in &mut people {
                    if let Some(input) = person.act(&world, &grid, &start.map) {
                        self.press(&input)?;
                    }
                }
                self.show(&world, start)?;
            } else if let Some(frame) = self.ports.frame.answer(&message)? {
                // The live picture is a courtesy: where it can't be written the match goes on.
                let _ = std::fs::write(&self.board.live_picture, frame.png);
            } else if let Some(report) = self.ports.report.read(&message)? {
                return Ok(report);
            }
        }
    }

    fn press(&self, input: &Input) -> Result<()> {
        match self.session.send(&self.ports.input, input) {
            // The next tick's input is as good.
            Err(SendError::Full) => Ok(()),
            sent => {
                self.slot.count_input();
                Ok(sent?)
            }
        }
    }

    /// Puts the world on the board, and halfway through the match asks for a picture of it.
    fn show(&self, world: &World, start: &Start) -> Result<()> {
        let best = world.players.iter().zip(&start.seats).max_by_key(|(view, _)| view.score);
        let leader =
            best.filter(|(view, _)| view.score > 0).map(|(view, seat)| (seat.name.clone(), view.score));
        self.slot.change(|s| (s.tick, s.leader) = (world.tick, leader));
        if world.tick == start.ticks / 2 {
            self.session.call(&self.ports.frame, &FrameRequest)?;
        }
        Ok(())
    }

    fn ask<T: Wire, R: Wire>(&self, port: &Out<T, R>, value: &T) -> Result<R> {
        let call = self.session.call(port, value)?;
        loop {
            let mail = self.receive()?;
            if mail.message().call() == Some(call)
                && let Some(answer) = port.answer(&mail.message())?
            {
                return Ok(answer);
            }
        }
    }

    /// The next message.
    fn receive(&self) -> Result<Mail> {
        let begin = Instant::now();
        loop {
            match self.session.receive(LOOK) {
                Err(ReceiveError::Timeout) if is_stopped(self.stop) => return Err(Stopped.into()),
                Err(ReceiveError::Timeout) if begin.elapsed() < PATIENCE => {}
                received => {
                    return if is_stopped(self.stop) { Err(Stopped.into()) } else { Ok(received?) };
                }
            }
        }
    }
}
