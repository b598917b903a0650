//! What a manifest that is right turns into.

use shard_runtime::id::{ComponentId, PortId};
use shardkit::application::*;
use shardkit::manifest::{Manifest, schema};

const ARENA: &str = r#"
[application]
name = "arena"

[composition.match]
entry = ["physics"]

[composition.lobby]

[component.physics]
program = "bin/arena"
args = ["physics", "--fast"]
env = { RUST_LOG = "info", A = "1" }
capacity = 64
warm = 2
max = 4
cores = 1
share = 1.5
memory = "64MiB"
huge_pages = "4MiB"
processes = 32
gpu_memory = 1024
bandwidth = "1Gbit/s"
disk_read = "50MiB/s"
disk_write = 4096
wait = "spin"
tick_hz = 60
start_timeout_ms = 10
stop_timeout_ms = 20
config = { gravity = -9.81, names = ["a"], since = 1979-05-27 }

[component.physics.in]
zeta = "Move"
alpha = { type = "Query", reply = "Answer", max = "1MiB" }

[component.physics.out]
world = { to = ["render.world", "ai.world", "embedder.world"], type = "World", ring = "1MiB" }
score = "ai.score"

[component.ai]
program = "arena"

[component.ai.in]
world = { type = "World", max = "4KiB" }
score = { type = "Score", reply = "Rank" }

[component.render]
program = "arena"
wait = "park"
cores = 2
realtime = 10

[component.render.in]
world = "World"

[embedder.in]
world = { type = "World", max = 9000 }

[embedder.out]
move = "physics.zeta"
"#;

fn arena() -> Application {
    Manifest::parse(ARENA, "folder/arena.toml").unwrap().application().clone()
}

fn parse(text: &str) -> Application {
    Manifest::parse(text, "arena.toml").unwrap().application().clone()
}

fn names<'a>(application: &'a Application, ids: &[ComponentId]) -> Vec<&'a str> {
    ids.iter().map(|id| application.component(*id).name.as_str()).collect()
}

#[test]
fn every_key_arrives() {
    let arena = arena();
    assert_eq!(arena.name, "arena");
    let physics = &arena.components[0];
    let program = physics.program.as_ref().unwrap();
    assert_eq!(program.path.to_str(), Some("bin/arena"));
    assert_eq!(program.args, ["physics", "--fast"]);
    assert_eq!(program.env, [("RUST_LOG".into(), "info".into()), ("A".into(), "1".into())]);
    assert_eq!(physics.capacity, 64);
    assert_eq!(physics.shards, Shards::between(2, 4));
    let needs = Needs {
        cores: 1,
        share_millicores: 1500,
        memory_bytes: 64 << 20,
        huge_pages_bytes: 4 << 20,
        processes: 32,
        gpu_memory_bytes: 1024,
        bandwidth_bits_per_s: 1_000_000_000,
        disk_read_bytes_per_s: 50 << 20,
        disk_write_bytes_per_s: 4096,
        realtime: 0,
    };
    assert_eq!(physics.needs, needs);
    assert_eq!((physics.wait, arena.components[2].wait), (Wait::Spin, Wait::Park));
    assert_eq!(arena.components[2].needs.realtime, 10);
    assert_eq!(physics.tick_hz, Some(60.0));
    assert_eq!((physics.start_timeout_ms, physics.stop_timeout_ms), (10, 20));
    assert_eq!(physics.config_json, r#"{"gravity":-9.81,"names":["a"],"since":"1979-05-27"}"#);
    let alpha = Input {
        name: "alpha".into(),
        ty: "Query".into(),
        reply: Some("Answer".into()),
        message_bytes_max: 1 << 20,
    };
    assert_eq!(physics.inputs[1], alpha);
}

#[test]
fn what_is_not_written_has_its_default() {
    let application = parse(
        "[application]\nname = 'a'\n[component.b]\nprogram = 'p'\nin.x = 'X'\n[component.c]\nprogram = 'p'\nwarm = 0\nout.y = 'b.x'",
    );
    let b = &application.components[0];
    let needs = Needs { processes: 64, ..Needs::default() };
    assert_eq!((b.capacity, b.shards, b.needs), (1, Shards::between(1, 1), needs));
    assert_eq!((b.wait, b.tick_hz), (Wait::SpinThenPark { spin_us: 50 }, None));
    assert_eq!((b.start_timeout_ms, b.stop_timeout_ms, b.config_json.as_str()), (5000, 1000, "{}"));
    assert_eq!((b.inputs[0].message_bytes_max, b.inputs[0].reply.as_ref()), (64 << 10, None));
    let c = &application.components[1];
    assert_eq!((c.shards, c.outputs[0].ring_bytes), (Shards::between(0, 1), 256 << 10));
    assert_eq!(application.embedder, None);
}

#[test]
fn everything_keeps_the_order_of_the_text() {
    let arena = arena();
    let components: Vec<_> = arena.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(components, ["physics", "ai", "render", "embedder"]);
    let inputs: Vec<_> = arena.components[0].inputs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(inputs, ["zeta", "alpha"]);
    let outputs: Vec<_> = arena.components[0].outputs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(outputs, ["world", "score"]);
    let compositions: Vec<_> = arena.compositions.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(compositions, ["match", "lobby"]);
}

#[test]
fn an_output_takes_type_reply_and_limit_from_its_destinations() {
    let arena = arena();
    let [world, score] = &arena.components[0].outputs[..] else { panic!() };
    assert_eq!((world.ty.as_str(), &world.reply, world.message_bytes_max), ("World", &None, 4096));
    assert_eq!(world.ring_bytes, 1 << 20);
    let to: Vec<_> = world.to.iter().map(|to| (to.component.0, to.input)).collect();
    assert_eq!(to, [(2, PortId(0)), (1, PortId(0)), (3, PortId(0))]);
    assert_eq!((score.ty.as_str(), score.reply.as_deref()), ("Score", Some("Rank")));
}

#[test]
fn the_embedder_is_a_component_without_a_program() {
    let arena = arena();
    assert_eq!(arena.embedder, Some(ComponentId(3)));
    let embedder = arena.component(ComponentId(3));
    assert_eq!((embedder.name.as_str(), &embedder.program), ("embedder", &None));
    assert_eq!(embedder.shards, Shards::between(0, 0));
    assert_eq!(embedder.outputs[0].to, [Destination { component: ComponentId(0), input: PortId(0) }]);
}

#[test]
fn a_composition_reaches_what_its_entries_call_callers_first_and_never_the_embedder() {
    let arena = arena();
    assert_eq!(names(&arena, &arena.compositions[0].components), ["physics", "ai", "render"]);
    assert_eq!(names(&arena, &arena.compositions[1].components), ["physics", "ai", "render"]);
}

/// Components that call others: `("a", "bc")` is `a`, which calls `b` and `c`.
fn calling(head: &str, calls: &[(&str, &str)]) -> Application {
    let mut text = format!("[application]\nname = 'x'\n{head}\n");
    for (name, called) in calls {
        let table = if *name == "embedder" { "embedder" } else { &format!("component.{name}") };
        text += &format!("[{table}]\nin.in = 'X'\n");
        if *name != "embedder" {
            text += "program = 'p'\n";
        }
        called.chars().for_each(|to| text += &format!("out.to-{to} = '{to}.in'\n"));
    }
    parse(&text)
}

#[test]
fn without_compositions_there_is_one_of_all_that_is_called_from_outside() {
    let of = |application: Application| names(&application, &application.compositions[0].components).concat();
    assert_eq!(of(calling("", &[("b", ""), ("a", "b"), ("c", "")])), "abc");
    assert_eq!(of(calling("", &[("b", ""), ("a", "b"), ("c", ""), ("embedder", "c")])), "c");
    assert_eq!(of(calling("", &[("b", ""), ("a", "b"), ("c", ""), ("embedder", "")])), "abc");
    // In a circle any order is right.
    assert_eq!(of(calling("cycles = true", &[("a", "b"), ("b", "a")])).len(), 2);
    assert_eq!(calling("", &[("a", "")]).compositions[0].name, "default");
}

#[test]
fn callers_come_before_those_whom_they_call() {
    let application = calling("", &[("d", ""), ("b", "d"), ("c", "bd"), ("a", "cb")]);
    assert_eq!(names(&application, &application.compositions[0].components).concat(), "acbd");
}

#[test]
fn where_no_call_decides_a_composition_keeps_the_order_of_the_text() {
    let of = |application: Application| names(&application, &application.compositions[0].components).concat();
    assert_eq!(of(calling("", &[("a", "d"), ("b", ""), ("c", ""), ("d", "")])), "abcd");
    assert_eq!(of(calling("", &[("d", ""), ("b", ""), ("a", "d"), ("c", "b")])), "adcb");
    // What a circle calls comes after all of it.
    assert_eq!(of(calling("cycles = true", &[("x", ""), ("a", "b"), ("b", "ax"), ("s", "a")])), "sabx");
}

#[test]
fn a_circle_is_taken_where_it_is_allowed() {
    let application = calling("cycles = true", &[("c", "a"), ("a", "b"), ("b", "c"), ("s", "b")]);
    assert_eq!(names(&application, &application.compositions[0].components).concat(), "sbca");
}

#[test]
fn a_way_through_the_embedder_is_no_circle() {
    let text = "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\nin.x = 'X'\nout.y = 'embedder.y'\n[embedder]\nin.y = 'Y'\nout.x = 'a.x'";
    assert_eq!(parse(text).compositions[0].components, [ComponentId(0)]);
}

#[test]
fn what_becomes_of_a_shard_and_where_it_comes_from_is_declared() {
    let application = parse(
        "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\nafter = 'scrub'\nzygote = true\n[component.b]\nprogram = 'p'\nafter = 'restart'\n\
         [component.c]\nprogram = 'p'\n[generic.all]\nprogram = 'q'\nargs = ['any']\nenv = { A = 'b' }\ncomponents = ['c', 'a']\nspares = 3",
    );
    let [a, b, c] = [0, 1, 2].map(|at| &application.components[at]);
    assert_eq!([a.after, b.after, c.after], [After::Scrub, After::Restart, After::Return]);
    assert_eq!([a.zygote, b.zygote, c.zygote], [true, false, false]);
    let program = Program { path: "q".into(), args: vec!["any".into()], env: vec![("A".into(), "b".into())] };
    let components = vec![ComponentId(2), ComponentId(0)];
    assert_eq!(
        application.generics,
        [Generic { name: "all".into(), program, components, spares: Spares::Fixed(3) }]
    );
    assert_eq!([0, 1, 2].map(|at| application.generic_of(ComponentId(at))), [Some(0), None, Some(0)]);
}

#[test]
fn spares_are_a_number_or_what_the_policy_chooses() {
    let spares = |keys: &str| {
        let head = "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\n[generic.all]\nprogram = 'q'\ncomponents = ['a']\n";
        parse(&format!("{head}{keys}")).generics[0].spares
    };
    assert_eq!(spares("spares = 0"), Spares::Fixed(0));
    assert_eq!(spares(""), Spares::Auto { max: SPARES_AUTO_MAX_DEFAULT });
    assert_eq!(spares("spares = 'auto'\nspares_max = 40"), Spares::Auto { max: 40 });
    assert_eq!(spares("spares_max = 0").first(), 0);
    assert_eq!([spares(""), spares("spares = 5")].map(Spares::first), [1, 5]);
}

#[test]
fn a_file_is_read_and_knows_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arena.toml");
    std::fs::write(&path, ARENA).unwrap();
    let manifest = Manifest::read(&path).unwrap();
    assert_eq!((manifest.folder(), manifest.file()), (folder.path(), path.as_path()));
    assert_eq!(manifest.application(), &arena());
    assert_eq!(manifest.into_application(), arena());
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let text = format!("\u{feff}{}", ARENA.replace('\n', "\r\n"));
    assert_eq!(parse(&text), arena());
}

#[test]
fn the_schema_names_every_key_refuses_others_and_shows_defaults() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["application"]));
    let component = &schema["$defs"]["Component"];
    assert_eq!(
        component["oneOf"],
        serde_json::json!([{ "required": ["program"] }, { "required": ["image"] }])
    );
    assert_eq!(component["additionalProperties"], false);
    assert_eq!(component["properties"]["capacity"]["maximum"], CAPACITY_MAX);
    assert_eq!(component["properties"]["capacity"]["default"], 1);
    assert_eq!(component["properties"]["max"]["type"], "integer");
    for key in ["in", "out", "wait", "tick_hz", "config", "env", "bandwidth"] {
        assert!(component["properties"][key].is_object(), "{key}");
    }
    assert_eq!(component["properties"]["bandwidth"]["anyOf"][0]["minimum"], BANDWIDTH_BITS_PER_S_MIN);
    assert_eq!(component["properties"]["after"]["default"], "return");
    let generic = &schema["$defs"]["Generic"];
    assert_eq!(generic["required"], serde_json::json!(["program", "components"]));
    assert_eq!(generic["properties"]["spares"]["anyOf"][0]["maximum"], SPARES_MAX);
    assert_eq!(generic["properties"]["spares"]["default"], "auto");
    assert_eq!(generic["properties"]["spares_max"]["maximum"], SPARES_MAX);
    assert_eq!(schema["$defs"]["Output"]["properties"]["ring"]["default"], "256KiB");
    assert!(!schema.to_string().contains("null"), "{schema:#}");
}

#[test]
fn a_pool_has_its_policy_its_prices_and_each_component_its_limits() {
    let app = parse(
        r#"
        [application]
        name = "pooled"
        [pool]
        policy = "keep-alive-20"
        bin_s = 30
        history = "pools.history"
        prices = { waiting_second = 2 }
        [component.a]
        program = "a"
        warm = 1
        max = 9
        frozen = 3
        scale_down_delay_ms = 500
        after = "scrub"
        scale = { buffer = 2, fraction = 0.5, step_up = 4, budget_hour = 1.5, schedule = [
            { days = ["fri", "sat"], from = "20:00", to = "02:30", floor = 4 },
        ] }
        [composition.only]
        idle_timeout_s = 90
        "#,
    );
    let pool = app.pool.unwrap();
    assert_eq!((pool.policy.as_str(), pool.bin_s), ("keep-alive-20", 30.0));
    assert_eq!(pool.history.unwrap().to_str(), Some("pools.history"));
    assert_eq!((pool.prices.core_hour, pool.prices.waiting_second), (0.04, 2.0));
    let a = &app.components[0];
    assert_eq!((a.shards.frozen, a.shards.scale_down_delay_ms, a.after), (3, 500, After::Scrub));
    assert_eq!(
        (a.scale.buffer, a.scale.fraction, a.scale.step_up, a.scale.step_down),
        (2, 0.5, Some(4), None)
    );
    let window = &a.scale.schedule[0];
    assert_eq!((&window.days[..], window.from_minute, window.to_minute), (&[4, 5][..], 1200, 150));
    assert_eq!((window.floor, window.ceiling), (Some(4), None));
    assert_eq!(app.compositions[0].idle_timeout_ms, Some(90_000));
}

#[test]
fn shards_are_isolated_unless_it_says_otherwise_and_reach_what_it_allows() {
    let text = "[application]\nname = 'x'\n[component.a]\nprogram = 'p'\n[component.b]\nprogram = 'p'\nisolation = 'none'\n\
         [component.c]\nprogram = 'p'\n[component.c.allow]\nread = ['/srv/models']\nwrite = ['/var/lib/x']\n\
         devices = ['/dev/dri']\nnetwork = true\nrdma = true\nsyscalls = ['fallocate']\n[embedder]\n";
    let manifest = Manifest::parse(text, "x.toml").unwrap_or_else(|error| panic!("{error}"));
    let [a, b, c, embedder] = &manifest.application().components[..] else { panic!("four") };
    assert_eq!(a.isolation, Some(Allow::default()));
    assert_eq!([&b.isolation, &embedder.isolation], [&None, &None]);
    let allowed = Allow {
        read: vec!["/srv/models".into()],
        write: vec!["/var/lib/x".into()],
        devices: vec!["/dev/dri".into()],
        network: true,
        rdma: true,
        syscalls: vec!["fallocate".into()],
    };
    assert_eq!(c.isolation, Some(allowed));
}
