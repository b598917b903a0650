//! All five components in one process, wired by hand: from the login to the picture.

use arena::ai::Squad;
use arena::auth::{Auth, AuthConfig, DEMO_NAMES};
use arena::inventory::Inventory;
use arena::messages::*;
use arena::physics::{Match, MatchConfig};
use arena::render::{Film, Image, contact_sheet, scene};

/// A match in the middle: its physics, its bots and its film.
struct Running {
    game: Match,
    squad: Squad,
    film: Film,
    start: Start,
}

impl Running {
    fn new(config: MatchConfig, joins: &[Join], auth: &Auth) -> Self {
        let mut game = Match::new(config);
        joins.iter().for_each(|join| game.join(join, auth.key(), 0).unwrap());
        let start = game.start();
        let (squad, film) = (Squad::new(&start), Film::new(&start));
        Self { game, squad, film, start }
    }

    fn tick(&mut self) -> World {
        let world = self.game.step();
        let bots = self.squad.think(&world);
        bots.inputs.iter().for_each(|input| self.game.input(input));
        // People who drive in circles and shoot at the middle.
        for (n, seat) in self.start.seats.iter().enumerate().filter(|(_, seat)| !seat.player.is_bot()) {
            let turn = (world.tick as f32 / 40.0 + n as f32).sin_cos();
            let aim = arena::map::CORNER / 2.0 - world.players[n].at.metres();
            let input = Input {
                player: seat.player,
                seq: world.tick,
                direction: turn.into(),
                aim: aim.into(),
                buttons: Buttons::FIRE.with(Buttons::DASH, world.tick.is_multiple_of(150)),
            };
            self.game.input(&input);
        }
        if world.tick.is_multiple_of(6) {
            self.film.record(world.clone());
        }
        world
    }
}

fn join(auth: &mut Auth, inventory: &mut Inventory, name: &str) -> Join {
    let login = Login { name: name.into(), password: format!("{name}-plays") };
    let Verdict::Ok(ticket) = auth.login(&login, 0) else { panic!("{name} is not let in") };
    let request = LoadoutRequest { ticket, action: Action::Show };
    let LoadoutReply::Ok { loadout, .. } = inventory.answer(&request, auth.key(), 0) else {
        panic!("no loadout")
    };
    Join { ticket, name: name.into(), loadout }
}

#[test]
fn overlapping_matches_run_from_login_to_picture() {
    let mut auth = Auth::demo(AuthConfig { memory_kib: 8, passes: 1, ..AuthConfig::default() }).unwrap();
    let mut inventory = Inventory::default();
    let joins: Vec<Join> = DEMO_NAMES.iter().map(|name| join(&mut auth, &mut inventory, name)).collect();
    let mut matches: Vec<Running> = (0..6)
        .map(|n| {
            let config = MatchConfig { seed: 11 + n as u64, ticks: 1_500, players: 4 + n % 5 };
            Running::new(config, &joins[2 * n..2 * n + 1 + n % 2], &auth)
        })
        .collect();
    let mut largest = 0;
    while !matches[0].game.is_over() {
        for running in &mut matches {
            let world = running.tick();
            largest = largest.max(postcard::to_stdvec(&world).unwrap().len());
        }
    }
    assert!(largest < 1_024, "the largest world took {largest} bytes");

    let mut tiles = Vec::new();
    for running in &matches {
        let report = running.game.report();
        assert_eq!(report.standings.len(), running.start.seats.len());
        assert!(report.standings.iter().map(|s| s.hits).sum::<u32>() > 10, "a dull match: {report:?}");
        let poster = running.film.poster(&report, false).unwrap();
        assert!(poster.highlights_png.is_empty(), "nobody asked for highlights");
        tiles.push((report, Image::from_png(&poster.png).unwrap()));
    }
    let sheet = contact_sheet(&tiles);
    let png = sheet.png().unwrap();
    assert_eq!(Image::from_png(&png).unwrap(), sheet);
    let folder = target_folder();
    std::fs::write(folder.join("arena-test.png"), png).unwrap();
    std::fs::write(folder.join("arena-test-frame.png"), matches[4].film.frame().unwrap().png).unwrap();
    let poster = matches[4].film.poster(&tiles[4].0, true).unwrap();
    assert!(poster.highlights_png.windows(4).any(|w| w == b"acTL"), "the highlights are animated");
    std::fs::write(folder.join("arena-test-highlights.png"), poster.highlights_png).unwrap();
}

/// Cargo's target folder: the test's own program lies two folders below it.
fn target_folder() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().into()
}

#[test]
fn players_are_drawn_where_they_are_in_their_colour() {
    let auth = Auth::new(AuthConfig { memory_kib: 8, passes: 1, ..AuthConfig::default() }).unwrap();
    let mut running = Running::new(MatchConfig { players: 8, ..MatchConfig::default() }, &[], &auth);
    let world = (0..120).map(|_| running.tick()).last().unwrap();
    let image = running.film.image();
    assert_eq!((image.width, image.height), (scene::WIDTH, scene::FIELD + scene::BOARD));
    for (seat, view) in world.players.iter().enumerate().filter(|(_, view)| view.health > 0) {
        let at = scene::pixel(view.at.metres());
        let [r, g, b, _] = image.at(at.x as usize, at.y as usize + scene::BOARD).map(f32::from);
        let own = scene::colour(seat).0;
        let seen = [r, g, b].map(|part| (part / 255.0).powf(2.2));
        let (strongest, weakest) = (largest(own), largest(own.map(|part| -part)));
        assert!(seen[strongest] > 1.3 * seen[weakest], "seat {seat} is {seen:?}, not {own:?}");
    }
    let corner = image.at(30, scene::BOARD + 60);
    assert!(corner[..3].iter().all(|part| *part < 128), "the background is dark: {corner:?}");
}

fn largest(parts: [f32; 3]) -> usize {
    (0..3).max_by(|a, b| parts[*a].total_cmp(&parts[*b])).unwrap()
}

#[test]
fn an_empty_run_and_an_empty_film_still_make_pictures() {
    let film = Film::new(&Match::new(MatchConfig::default()).start());
    assert!(Image::from_png(&film.frame().unwrap().png).is_ok());
    let report = Match::new(MatchConfig::default()).report();
    let poster = film.poster(&report, true).unwrap();
    assert!(Image::from_png(&poster.highlights_png).is_ok());
    assert!(contact_sheet(&[]).png().is_ok());
}
