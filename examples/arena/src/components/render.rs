//! Rendering as a shard: it keeps a film of every match, and draws when it is asked.
//!
//! Invariant: what was asked for is drawn on ticks, about `draw_ms` in each and always whole steps, so a large
//! picture keeps nobody waiting: not the other matches, and not a session that opens or closes.

use super::or_skip;
use crate::messages::*;
use crate::render::{Film, Printing};
use shardkit::prelude::*;
use std::collections::VecDeque;

/// The most pictures that may be asked for and not yet drawn. Whoever asks beyond that loses its session.
const JOBS_MAX: usize = 1_024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RenderConfig {
    /// How long it may draw in one tick.
    draw_ms: u64,
}

#[derive(Default)]
struct Reel {
    film: Option<Film>,
    report: Option<MatchReport>,
    /// A poster that was asked for: it waits for the report.
    wanted: Option<(shardkit::OwnedMessage, PosterRequest)>,
}

/// A picture that somebody waits for.
struct Job {
    asked: shardkit::OwnedMessage,
    work: Work,
}

enum Work {
    Frame,
    Poster(Box<Printing>),
    /// A poster that is drawn, but for which there was no room on the link.
    Drawn(Poster),
}

pub(super) struct RenderShard {
    reels: SessionMap<Reel>,
    jobs: VecDeque<Job>,
    start: In<Start>,
    world: In<World>,
    report: In<MatchReport>,
    frame: In<FrameRequest, Frame>,
    poster: In<PosterRequest, Poster>,
    draw_ns: u64,
}

impl RenderShard {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let RenderConfig { draw_ms } = config.get()?;
        Ok(Self {
            reels: SessionMap::default(),
            jobs: VecDeque::new(),
            start: config.input("start")?,
            world: config.input("world")?,
            report: config.input("report")?,
            frame: config.input("frame")?,
            poster: config.input("poster")?,
            draw_ns: draw_ms * 1_000_000,
        })
    }

    fn queue(&mut self, asked: shardkit::OwnedMessage, work: Work) -> Result<()> {
        if self.jobs.len() >= JOBS_MAX {
            return Err(Error::new(format!("{JOBS_MAX} pictures wait to be drawn; ask for fewer, or later")));
        }
        self.jobs.push_back(Job { asked, work });
        Ok(())
    }

    /// Queues the session's poster if it was asked for and the match is over.
    fn print(&mut self, session: SessionId) -> Result<()> {
        let Some(reel) = self.reels.get_mut(&session) else { return Ok(()) };
        let (Some(film), Some(report)) = (&reel.film, &reel.report) else { return Ok(()) };
        let Some((asked, request)) = reel.wanted.take() else { return Ok(()) };
        let printing = Printing::new(film, report.clone(), request.highlights);
        self.queue(asked, Work::Poster(Box::new(printing)))
    }

    /// Does a step of the picture that waits longest. False if nothing more can be done in this tick.
    fn draw(&mut self, mut job: Job, ctx: &mut Context<'_>) -> Result<bool> {
        let asked = job.asked.as_message();
        let film = self.reels.get(&asked.session()).and_then(|reel| reel.film.as_ref());
        let film = film.ok_or_else(|| Error::new("the match has not begun; ask for a picture later"))?;
        match &mut job.work {
            Work::Frame => or_skip(ctx.answer(&self.frame, &asked, &film.frame()?))?,
            Work::Poster(printing) => {
                if let Some(poster) = printing.step(film)? {
                    job.work = Work::Drawn(poster);
                }
                self.jobs.push_front(job);
            }
            Work::Drawn(poster) => match ctx.answer(&self.poster, &asked, poster) {
                // The poster before it is still on its way. This one goes when there is room.
                Err(SendError::Full) => {
                    self.jobs.push_front(job);
                    return Ok(false);
                }
                sent => sent?,
            },
        }
        Ok(true)
    }
}

impl Shard for RenderShard {
    fn on_open(&mut self, session: SessionId, _: &mut Context<'_>) -> Result<()> {
        self.reels.insert(session, Reel::default());
        Ok(())
    }

    fn on_message(&mut self, message: Message<'_>, _: &mut Context<'_>) -> Result<()> {
        let session = message.session();
        let Some(reel) = self.reels.get_mut(&session) else { return Ok(()) };
        if let Some(world) = self.world.read(&message)? {
            if let Some(film) = &mut reel.film {
                film.record(world);
            }
        } else if let Some(start) = self.start.read(&message)? {
            reel.film = Some(Film::new(&start));
        } else if let Some(report) = self.report.read(&message)? {
            reel.report = Some(report);
            self.print(session)?;
        } else if let Some(request) = self.poster.read(&message)? {
            reel.wanted = Some((message.to_owned(), request));
            self.print(session)?;
        } else if self.frame.is(&message) {
            self.queue(message.to_owned(), Work::Frame)?;
        }
        Ok(())
    }

    fn on_tick(&mut self, _: Tick, ctx: &mut Context<'_>) -> Result<()> {
        let begin_ns = ctx.now_ns();
        while ctx.now_ns() - begin_ns < self.draw_ns
            && let Some(job) = self.jobs.pop_front()
        {
            let session = job.asked.as_message().session();
            match self.draw(job, ctx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => ctx.end(session, &error.to_string()),
            }
        }
        Ok(())
    }

    fn on_close(&mut self, session: SessionId, _: &mut Context<'_>) {
        self.reels.remove(&session);
        self.jobs.retain(|job| job.asked.as_message().session() != session);
    }
}
