//! Everything that can be wrong with a manifest gives one clear error: place, cause and cure.

use shardkit::application::*;
use shardkit::manifest::{Host, MANIFEST_BYTES_MAX, Manifest, ManifestError, check_needs};
use std::fmt::Write;

const HEAD: &str = "[application]\nname = 'arena'\n";

fn error(text: &str) -> ManifestError {
    Manifest::parse(text, "arena.toml").expect_err(text)
}

/// The error's first line without the file's name.
fn headline(text: &str) -> String {
    let shown = error(text).to_string();
    shown.lines().next().unwrap().strip_prefix("arena.toml:").unwrap().to_owned()
}

/// The headline for components written below the application's head; those begin in line 3.
fn below_head(components: &str) -> String {
    headline(&format!("{HEAD}{components}"))
}

/// The headline for one more line in a component's table, which is line 5.
fn in_component(line: &str) -> String {
    below_head(&format!("[component.ai]\nprogram = 'ai'\n{line}"))
}

/// `sender` calls `world`, `score` and `chat` of two others; `out` is its output, in line 12.
fn sending(out: &str) -> String {
    below_head(&format!(
        "[component.render]\nprogram = 'r'\nin.world = 'World'\n[component.stats]\nprogram = 's'\n\
         in.world = 'World'\nin.score = {{ type = 'Score', reply = 'Rank' }}\n[component.ai]\nprogram = 'a'\nout.x = {out}"
    ))
}

#[test]
fn an_error_shows_the_line_and_marks_the_place() {
    let text = format!(
        "{HEAD}[component.ai]\nprogram = 'ai'\nout.world = \"rendr.world\" # all\n[component.render]\nprogram = 'r'"
    );
    let error = error(&text);
    assert_eq!((error.line(), error.column()), (Some(5), Some(13)));
    assert_eq!(error.file().to_str(), Some("arena.toml"));
    assert_eq!(
        error.to_string(),
        "arena.toml:5:13: component `ai` sends `world` to `rendr.world`, but there is no component `rendr`; did you mean `render`?
  |
5 | out.world = \"rendr.world\" # all
  |             ^^^^^^^^^^^^^"
    );
}

#[test]
fn a_column_counts_characters_and_a_long_line_is_cut() {
    let error = error(&format!(
        "{HEAD}[component.ai]\nprogram = 'ai'\nargs = ['ü', '{}', 7, 'end']",
        "é".repeat(300)
    ));
    assert_eq!(error.column(), Some(319));
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[2].chars().count() < 120, "{shown}");
    let caret = lines[3].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[2].chars().nth(caret), Some('7'), "{shown}");
}

#[test]
fn control_characters_of_the_file_do_not_reach_the_terminal() {
    let shown = error("[application]\nname = \"\\u001b[2J\\u202e\" # \u{202e}").to_string();
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
    let shown = error("name = \u{1b}[2J").to_string();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn a_syntax_error_has_its_place() {
    assert_eq!(headline("[application]\nname = arena"), "");
    assert_eq!(headline("[application\nname = 'arena'"), "");
    assert_eq!(headline("[application]\nname = 'arena'\nname = 'b'"), "");
    assert_eq!(headline("[application]\r\nname = 'arena\r\n"), "");
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    assert_eq!(in_component("capcity = 3"), "");
    assert_eq!(below_head("cycle = true"), "");
    assert_eq!(below_head("[components.ai]\nprogram = 'ai'"), "");
    assert_eq!(in_component("in.a = { typ = 'A' }"), "");
    assert_eq!(in_component("out.a = { to = 'b.c', rong = 1 }"), "");
    assert_eq!(in_component("wait = { spin = 1 }"), "");
    assert_eq!(in_component("[embedder]\nprogram = 'x'"), "");
    assert_eq!(in_component("[composition.a]\nentries = []"), "");
    assert_eq!(in_component("\"a`b\" = 1"), "");
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(headline(""), "");
    assert_eq!(headline("[component.ai]\nprogram = 'ai'"), "");
    assert_eq!(headline("[application]\ncycles = true"), "");
    assert_eq!(below_head("[component.ai]\ncapacity = 1"), "");
    assert_eq!(below_head("[component.ai.in]\na = 'A'"), "");
    assert_eq!(in_component("in.a = { reply = 'A' }"), "");
    assert_eq!(in_component("out.a = { type = 'A' }"), "");
    assert_eq!(in_component("wait = {}"), "");
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_the_right_one() {
    assert_eq!(in_component("capacity = '3'"), "");
    assert_eq!(in_component("capacity = 3.5"), "");
    assert_eq!(in_component("tick_hz = 'fast'"), "");
    assert_eq!(in_component("args = 'x'"), "");
    assert_eq!(in_component("args = ['x', 3]"), "");
    assert_eq!(in_component("env = { A = 1 }"), "");
    assert_eq!(in_component("memory = 1.5"), "");
    assert_eq!(in_component("wait = ['spin']"), "");
    assert_eq!(in_component("wait = 3"), "");
    assert_eq!(in_component("config = 3"), "");
    assert_eq!(in_component("in.a = ['A']"), "");
    assert_eq!(in_component("in.a = 3"), "");
    assert_eq!(in_component("in = 3"), "");
    assert_eq!(in_component("out.a = 3"), "");
    assert_eq!(in_component("out.a = { to = { b = 1 } }"), "");
    assert_eq!(in_component("out.a = { to = ['b.c', 1] }"), "");
    assert_eq!(in_component("out.a = 1979-05-27"), "");
    assert_eq!(below_head("[component]\nai = 3"), "");
    assert_eq!(below_head("component = []"), "");
    assert_eq!(headline("application = 'arena'"), "");
    assert_eq!(headline("[application]\nname = 'a'\ncycles = 'no'"), "");
    assert_eq!(in_component("capacity = 99999999999999999999"), "");
}

#[test]
fn a_destination_that_is_not_there_is_named_with_the_one_that_was_meant() {
    assert_eq!(sending("'rendr.world'"), "");
    assert_eq!(sending("['render.world', 'zzz.world']"), "");
    assert_eq!(sending("{ to = 'render.wrld' }"), "");
    assert_eq!(sending("'render'"), "");
    assert_eq!(sending("'ai.x'"), "");
    assert_eq!(sending("'embedder.world'"), "");
    assert_eq!(sending("[]"), "");
    assert_eq!(sending("['render.world', 'render.world']"), "");
    assert_eq!(sending("'stats.zzz'"), "");
    assert_eq!(sending("'stats.world'\n[embedder]\nout.y = 'stats.wurld'"), "");
}

#[test]
fn ports_that_disagree_on_type_or_reply_are_named() {
    assert_eq!(sending("{ to = 'render.world', type = 'Wrld' }"), "");
    assert_eq!(sending("{ to = 'render.world', reply = 'Rank' }"), "");
    assert_eq!(sending("{ to = 'stats.score', reply = 'Place' }"), "");
    assert_eq!(sending("['render.world', 'stats.score']"), "");
    let replies = "[component.a]\nprogram = 'a'\nin.x = 'X'\n[component.b]\nprogram = 'b'\nin.x = { type = 'X', reply = 'Y' }\n";
    assert_eq!(below_head(&format!("{replies}[component.c]\nprogram = 'c'\nout.y = ['a.x', 'b.x']")), "");
}

/// Components `a`, `b`, `c` that call each other in a circle.
const CIRCLE: &str = "[component.a]\nprogram = 'p'\nin.x = 'X'\nout.y = 'b.x'\n[component.b]\nprogram = 'p'\n\
                      in.x = 'X'\nout.y = 'c.x'\n[component.c]\nprogram = 'p'\nin.x = 'X'\nout.y = 'a.x'\n";

#[test]
fn a_circle_of_calls_is_named_where_none_is_allowed() {
    assert_eq!(below_head(CIRCLE), "");
    let start = "[component.start]\nprogram = 'p'\nout.x = 'b.x'\n";
    assert_eq!(below_head(&format!("{start}{CIRCLE}")), "");
}

#[test]
fn numbers_out_of_their_range_are_named_with_the_range() {
    assert_eq!(in_component("capacity = 0"), "");
    assert_eq!(in_component("capacity = 65537"), "");
    assert_eq!(in_component("capacity = -1"), "");
    assert_eq!(in_component("warm = 100001"), "");
    assert_eq!(in_component("max = 100001"), "");
    assert_eq!(in_component("max = 0"), "");
    assert_eq!(in_component("warm = 5\nmax = 4"), "");
    assert_eq!(in_component("cores = 5000"), "");
    assert_eq!(in_component("wait = { spin_us = 1000001 }"), "");
    assert_eq!(in_component("wait = 'spinn'"), "");
    assert_eq!(in_component("start_timeout_ms = 0"), "");
    assert_eq!(in_component("stop_timeout_ms = 3600001"), "");
    assert_eq!(in_component("tick_hz = 0"), "");
    assert_eq!(in_component("tick_hz = -60.0"), "");
    assert_eq!(in_component("tick_hz = nan"), "");
    assert_eq!(in_component("tick_hz = inf"), "");
    assert_eq!(in_component("tick_hz = 10000.5"), "");
}

#[test]
fn a_malformed_size_is_named_with_an_example() {
    assert_eq!(in_component("memory = '64mb'"), "");
    assert_eq!(in_component("gpu_memory = -1"), "");
    assert_eq!(in_component("memory = '99999999999TiB'"), "");
    assert_eq!(in_component("bandwidth = '1GB'"), "");
    assert_eq!(in_component("in.a = { type = 'A', max = '65MiB' }"), "");
    assert_eq!(in_component("in.a = { type = 'A', max = 0 }"), "");
    assert_eq!(sending("{ to = 'render.world', ring = '1000KiB' }"), "");
    assert_eq!(sending("{ to = 'render.world', ring = 2048 }"), "");
    assert_eq!(sending("{ to = 'render.world', ring = '128MiB' }"), "");
}

#[test]
fn a_bad_name_is_named_with_the_rule() {
    assert_eq!(headline("[application]\nname = ''"), "");
    assert_eq!(headline("[application]\nname = '../x'"), "");
    assert_eq!(below_head("[component.Ai]\nprogram = 'ai'"), "");
    assert_eq!(below_head(&format!("[component.{}]\nprogram = 'ai'", "a".repeat(NAME_BYTES_MAX + 1))), "");
    assert_eq!(below_head("[component.embedder]\nprogram = 'ai'"), "");
    assert_eq!(in_component("in.'a b' = 'A'"), "");
    assert_eq!(in_component("in.a = ''"), "");
    assert_eq!(in_component("in.a = 'two words'"), "");
    assert_eq!(in_component(&format!("in.a = '{}'", "A".repeat(TYPE_BYTES_MAX + 1))), "");
    assert_eq!(in_component("[composition.1]"), "");
    assert_eq!(in_component("in.a = 'A'\nout.a = 'b.c'"), "");
}

#[test]
fn a_program_that_the_kernel_could_not_start_is_refused() {
    assert_eq!(below_head("[component.ai]\nprogram = ''"), "");
    assert_eq!(below_head("[component.ai]\nprogram = \"a\\u0000b\""), "");
    assert_eq!(in_component("args = [\"\\u0000\"]"), "");
    assert_eq!(in_component("env = { 'A=B' = 'c' }"), "");
    assert_eq!(in_component(&format!("args = ['{}']", "x".repeat(PROGRAM_BYTES_MAX))), "");
}

#[test]
fn a_config_that_json_can_not_hold_is_refused() {
    assert_eq!(in_component("config = { a = [1.5, nan] }"), "");
    assert_eq!(in_component(&format!("config = {{ a = '{}' }}", "x".repeat(CONFIG_BYTES_MAX))), "");
}

#[test]
fn a_composition_without_components_or_with_unknown_ones_is_refused() {
    assert_eq!(in_component("[composition.a]\nentry = []"), "");
    assert_eq!(in_component("[composition.a]\nentry = ['aj']"), "");
    assert_eq!(in_component("[composition.a]\nentry = ['ai', 'ai']"), "");
    assert_eq!(in_component("[embedder]\n[composition.a]\nentry = ['embedder']"), "");
    assert_eq!(in_component("[composition.a]\nentry = 'ai'"), "");
}

#[test]
fn an_application_needs_a_component() {
    assert_eq!(headline("[application]\nname = 'arena'"), "");
    assert_eq!(below_head("[embedder]"), "");
}

#[test]
fn every_list_has_its_maximum() {
    let components = |count: usize| {
        (0..count).fold(HEAD.to_owned(), |mut text, n| {
            writeln!(text, "[component.c{n}]\nprogram = 'p'").unwrap();
            text
        })
    };
    Manifest::parse(&components(COMPONENTS_MAX), "arena.toml").unwrap();
    assert_eq!(headline(&components(COMPONENTS_MAX + 1)), "");
    assert_eq!(headline(&(components(COMPONENTS_MAX) + "[embedder]")), "");

    let list = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let inputs = |count| {
        format!("{HEAD}[component.a]\nprogram = 'p'\n{}", list(count, &|n| format!("in.p{n} = 'X'\n")))
    };
    Manifest::parse(&inputs(PORTS_MAX), "arena.toml").unwrap();
    assert_eq!(headline(&inputs(PORTS_MAX + 1)), "");
    let compositions =
        |count| format!("{}{}", components(1), list(count, &|n| format!("[composition.p{n}]\n")));
    Manifest::parse(&compositions(COMPOSITIONS_MAX), "arena.toml").unwrap();
    assert_eq!(headline(&compositions(COMPOSITIONS_MAX + 1)), "");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let missing = Manifest::read(at("none.toml")).unwrap_err();
    assert_eq!((missing.line(), missing.column()), (None, None));
    let shown = missing.to_string();
    assert!(shown.ends_with("none.toml: the manifest can't be read: No such file or directory (os error 2); name a file that can"), "{shown}");
    assert!(Manifest::read(folder.path()).unwrap_err().what().contains("Is a directory"));

    std::fs::write(at("latin1.toml"), b"[application]\nname = 'M\xfcnchen'\n").unwrap();
    let error = Manifest::read(at("latin1.toml")).unwrap_err();
    assert_eq!((error.line(), error.column()), (Some(2), Some(10)));
    assert_eq!(error.what(), "the file is not UTF-8 from here on");

    std::fs::write(at("large.toml"), vec![b'#'; MANIFEST_BYTES_MAX + 1]).unwrap();
    assert_eq!(Manifest::read(at("large.toml")).unwrap_err().what(), "the manifest is larger than 1 MiB");
    assert_eq!(error_of_large_text(), "the manifest is larger than 1 MiB");
}

fn error_of_large_text() -> String {
    error(&"#".repeat(MANIFEST_BYTES_MAX + 1)).what().to_owned()
}

#[test]
fn needs_that_the_host_can_not_meet_are_named() {
    let host = Host { cores: 4, memory_bytes: 1 << 30, gpu_memory_bytes: 0 };
    let check = |components: &str| {
        let manifest = Manifest::parse(&format!("{HEAD}{components}"), "arena.toml").unwrap();
        check_needs(&manifest, &host).map_err(|error| error.to_string().lines().next().unwrap().to_owned())
    };
    let component = |name: &str, needs: &str| format!("[component.{name}]\nprogram = 'p'\n{needs}\n");
    assert_eq!(check(&component("a", "cores = 1\nwarm = 3\nmax = 99\nmemory = '341MiB'")), Ok(()));
    assert_eq!(check(&component("a", "cores = 4\nwarm = 0")), Err("".into()));
    assert_eq!(check(&component("a", "memory = '2GiB'")), Err("".into()));
    assert_eq!(check(&component("a", "gpu_memory = '1MB'")), Err("".into()));
    let two = component("a", "cores = 2") + &component("b", "cores = 1\nwarm = 2");
    assert_eq!(check(&two), Err("".into()));
    assert_eq!(check(&component("a", "memory = '1MiB'\nwarm = 1025")), Err("".into()));
    assert_eq!(check(&component("a", "memory = '0B'\nwarm = 100000\ncores = 0")), Ok(()));
}
