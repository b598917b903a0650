//! What a match costs its components: `cargo bench -p arena --bench tick`.

use arena::ai::Squad;
use arena::physics::{Match, MatchConfig};
use arena::render::Film;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

/// A match of eight bots that is under way.
fn running() -> (Match, Squad, Film) {
    let mut game = Match::new(MatchConfig { players: 8, ticks: u32::MAX, ..MatchConfig::default() });
    let start = game.start();
    let (mut squad, mut film) = (Squad::new(&start), Film::new(&start));
    for _ in 0..600 {
        let world = game.step();
        squad.think(&world).inputs.iter().for_each(|input| game.input(input));
        film.record(world);
    }
    (game, squad, film)
}

fn tick(criterion: &mut Criterion) {
    let (mut game, mut squad, film) = running();
    let mut group = criterion.benchmark_group("arena, eight players");
    group.bench_function("tick: physics and ai", |bencher| {
        bencher.iter(|| {
            let world = game.step();
            squad.think(&world).inputs.iter().for_each(|input| game.input(input));
            black_box(world)
        });
    });
    group.bench_function("frame: drawn", |bencher| bencher.iter(|| black_box(film.image())));
    let image = film.image();
    group.bench_function("frame: encoded as PNG", |bencher| bencher.iter(|| black_box(image.png())));
    group.finish();
}

criterion_group!(benches, tick);
criterion_main!(benches);
