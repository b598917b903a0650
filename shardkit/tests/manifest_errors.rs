//! Everything that can be wrong with a manifest gives one clear error: place, cause and cure.

use shardkit::application::*;
use shardkit::manifest::{Host, MANIFEST_BYTES_MAX, Manifest, ManifestError};
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
    assert_eq!(error.column(), Some(318));
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
    // The words in between are the parser's.
    let begins = |text: &str, place: &str| {
        let shown = headline(text);
        assert!(shown.starts_with(&format!("{place}: not valid TOML: ")), "{shown}");
    };
    begins("[application]\nname = arena", "2:8");
    begins("[application\nname = 'arena'", "1:13");
    begins("[application]\r\nname = 'arena\r\n", "2:15");
    let twice = headline("[application]\nname = 'arena'\nname = 'b'");
    assert_eq!(twice, "3:1: not valid TOML: duplicate key; name it once");
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    assert_eq!(in_component("capcity = 3"), "5:1: unknown key `capcity`; did you mean `capacity`?");
    assert_eq!(below_head("cycle = true"), "3:1: unknown key `cycle`; did you mean `cycles`?");
    assert_eq!(
        below_head("[components.ai]\nprogram = 'ai'"),
        "3:2: unknown key `components`; did you mean `component`?"
    );
    assert_eq!(in_component("in.a = { typ = 'A' }"), "5:10: unknown key `typ`; did you mean `type`?");
    assert_eq!(
        in_component("out.a = { to = 'b.c', rong = 1 }"),
        "5:23: unknown key `rong`; did you mean `ring`?"
    );
    assert_eq!(in_component("wait = { spin = 1 }"), "5:10: unknown key `spin`; the only key is `spin_us`");
    assert_eq!(
        in_component("[embedder]\nprogram = 'x'"),
        "6:1: unknown key `program`; the keys are `in`, `out`"
    );
    assert_eq!(
        in_component("[composition.a]\nentries = []"),
        "6:1: unknown key `entries`; the keys are `entry`, `idle_timeout_s`"
    );
    assert_eq!(
        in_component("\"a`b\" = 1"),
        "5:1: unknown key `a`b`; the 31 keys are `program`, `image`, `args`, `env`, `capacity`, `warm`, `max`, `frozen`, `scale_down_delay_ms`, `scale`, `cores`, `share`, `memory`, `huge_pages`, `processes`, `realtime`, `gpu_memory`, `bandwidth`, `disk_read`, `disk_write` …"
    );
}

#[test]
fn a_component_is_a_program_or_an_image() {
    assert_eq!(
        in_component("image = 'oci:a.tar'"),
        "5:9: component `ai` has both `program` and `image`; leave one of them out"
    );
    let image = |lines: &str| below_head(&format!("[component.ai]\n{lines}"));
    for wrong in ["a.tar", "oci:", "docker:a"] {
        assert_eq!(
            image(&format!("image = '{wrong}'")),
            format!(
                "4:9: `image` can't be `{wrong}`; write `oci:` and the path of an image layout, of an archive, or of a bundle"
            )
        );
    }
    assert_eq!(
        image("program = 'oci:a.tar'"),
        "4:11: `program` names the image `oci:a.tar`; write `image = …` instead"
    );
    assert_eq!(
        image("image = 'oci:a.tar'\nzygote = true"),
        "3:12: component `ai` is an image, and no zygote can fork a container; leave `zygote` out"
    );
    assert_eq!(
        image("image = 'oci:a.tar'\nallow.network = true"),
        "5:1: component `ai` is an image, whose containers reach nothing of the host; leave `allow` out, or run its program natively"
    );
    assert_eq!(
        image("image = 'oci:a.tar'\nisolation = 'none'"),
        "5:13: component `ai` is an image, and a container is always isolated; leave `isolation` out, or run its program natively"
    );
    assert_eq!(
        image("image = 'oci:a.tar'\ngpu_memory = '1GiB'"),
        "5:14: component `ai` is an image, whose containers have no GPU; leave `gpu_memory` out, or run its program natively with `allow.devices`"
    );
    assert_eq!(
        image("image = 'oci:a.tar'\n[generic.any]\nprogram = 'p'\ncomponents = ['ai']"),
        "7:15: `ai` is an image, and no process becomes a container; leave it out"
    );
    assert_eq!(
        headline("[application]\nname = 'a'\noci_runtime = ''\n[component.b]\nprogram = 'b'"),
        "3:15: `oci_runtime` can't be ``; name one such as `crun`, or give the path of one"
    );
}

#[test]
fn a_missing_key_is_named() {
    assert_eq!(headline(""), "1:1: the key `application` is missing; add `[application]` with a `name`");
    assert_eq!(
        headline("[component.ai]\nprogram = 'ai'"),
        "1:1: the key `application` is missing; add `[application]` with a `name`"
    );
    assert_eq!(headline("[application]\ncycles = true"), "1:1: the key `name` is missing; add `name = …`");
    assert_eq!(
        below_head("[component.ai]\ncapacity = 1"),
        "3:12: component `ai` has neither `program` nor `image`; add `program = …`, or `image = \"oci:PATH\"`"
    );
    assert_eq!(
        below_head("[component.ai.in]\na = 'A'"),
        "3:12: component `ai` has neither `program` nor `image`; add `program = …`, or `image = \"oci:PATH\"`"
    );
    assert_eq!(in_component("in.a = { reply = 'A' }"), "5:8: the key `type` is missing; add `type = …`");
    assert_eq!(in_component("out.a = { type = 'A' }"), "5:9: the key `to` is missing; add `to = …`");
    assert_eq!(in_component("wait = {}"), "5:8: the key `spin_us` is missing; add `spin_us = …`");
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_the_right_one() {
    assert_eq!(in_component("capacity = '3'"), "5:12: wrong type: string \"3\"; write a whole number");
    assert_eq!(
        in_component("capacity = 3.5"),
        "5:12: wrong type: floating point `3.5`; write a whole number"
    );
    assert_eq!(in_component("tick_hz = 'fast'"), "5:11: wrong type: string \"fast\"; write a number");
    assert_eq!(in_component("args = 'x'"), "5:8: wrong type: string \"x\"; write a list");
    assert_eq!(in_component("args = ['x', 3]"), "5:14: wrong type: integer `3`; write a string");
    assert_eq!(in_component("env = { A = 1 }"), "5:13: wrong type: integer `1`; write a string");
    assert_eq!(
        in_component("memory = 1.5"),
        "5:10: wrong type: floating point `1.5`; write a whole number, or a text with a unit"
    );
    assert_eq!(
        in_component("wait = ['spin']"),
        "5:8: wrong type: list; write a word or a table with `spin_us`"
    );
    assert_eq!(
        in_component("wait = 3"),
        "5:8: wrong type: integer `3`; write a word or a table with `spin_us`"
    );
    assert_eq!(in_component("config = 3"), "5:10: wrong type: integer `3`; write a table");
    assert_eq!(
        in_component("in.a = ['A']"),
        "5:8: wrong type: list; write the type's name or a table with `type`"
    );
    assert_eq!(
        in_component("in.a = 3"),
        "5:8: wrong type: integer `3`; write the type's name or a table with `type`"
    );
    assert_eq!(in_component("in = 3"), "5:6: wrong type: integer `3`; write a table");
    assert_eq!(
        in_component("out.a = 3"),
        "5:9: wrong type: integer `3`; write a destination, a list of them, or a table with `to`"
    );
    assert_eq!(
        in_component("out.a = { to = { b = 1 } }"),
        "5:16: wrong type: table; write a destination or a list of them"
    );
    assert_eq!(in_component("out.a = { to = ['b.c', 1] }"), "5:24: wrong type: integer `1`; write a string");
    assert_eq!(
        in_component("out.a = 1979-05-27"),
        "5:9: wrong type: a date; write a text, a number or a table, as the key asks for"
    );
    assert_eq!(below_head("[component]\nai = 3"), "4:6: wrong type: integer `3`; write a table");
    assert_eq!(
        below_head("component = []"),
        "3:1: unknown key `component`; the keys are `name`, `cycles`, `idle_latency_us`, `oci_runtime`"
    );
    assert_eq!(headline("application = 'arena'"), "1:15: wrong type: string \"arena\"; write a table");
    assert_eq!(
        headline("[application]\nname = 'a'\ncycles = 'no'"),
        "3:10: wrong type: string \"no\"; write a boolean"
    );
    assert_eq!(
        in_component("capacity = 99999999999999999999"),
        "5:12: the number is too large; write one that fits 64 bits"
    );
}

#[test]
fn a_destination_that_is_not_there_is_named_with_the_one_that_was_meant() {
    assert_eq!(
        sending("'rendr.world'"),
        "12:9: component `ai` sends `x` to `rendr.world`, but there is no component `rendr`; did you mean `render`?"
    );
    assert_eq!(
        sending("['render.world', 'zzz.world']"),
        "12:26: component `ai` sends `x` to `zzz.world`, but there is no component `zzz`; the components are `render`, `stats`, `ai`"
    );
    assert_eq!(
        sending("{ to = 'render.wrld' }"),
        "12:16: component `ai` sends `x` to `render.wrld`, but component `render` has no input `wrld`; did you mean `world`?"
    );
    assert_eq!(
        sending("'render'"),
        "12:9: component `ai` sends `x` to `render`, which names no input; write `component.port`"
    );
    assert_eq!(
        sending("'ai.x'"),
        "12:9: component `ai` sends `x` to `ai.x`, which is its own input; keep what is for itself in its state; send to others only"
    );
    assert_eq!(
        sending("'embedder.world'"),
        "12:9: component `ai` sends `x` to `embedder.world`, but the manifest declares no embedder; add `[embedder.in]` with this input"
    );
    assert_eq!(
        sending("[]"),
        "12:9: component `ai` sends `x` to nobody; name a destination: `component.port`"
    );
    assert_eq!(
        sending("['render.world', 'render.world']"),
        "12:26: component `ai` sends `x` to `render.world` twice; name each destination once"
    );
    assert_eq!(
        sending("'stats.zzz'"),
        "12:9: component `ai` sends `x` to `stats.zzz`, but component `stats` has no input `zzz`; the inputs are `world`, `score`"
    );
    assert_eq!(
        sending("'stats.world'\n[embedder]\nout.y = 'stats.wurld'"),
        "14:9: the embedder sends `y` to `stats.wurld`, but component `stats` has no input `wurld`; did you mean `world`?"
    );
}

#[test]
fn ports_that_disagree_on_type_or_reply_are_named() {
    assert_eq!(
        sending("{ to = 'render.world', type = 'Wrld' }"),
        "12:39: component `ai` sends `x` as `Wrld`, but `render.world` takes `World`; write `World` here, or change the input"
    );
    assert_eq!(
        sending("{ to = 'render.world', reply = 'Rank' }"),
        "12:40: component `ai` sends `x` and expects `Rank` in reply, but `render.world` replies nothing; change `reply` here, or at the input"
    );
    assert_eq!(
        sending("{ to = 'stats.score', reply = 'Place' }"),
        "12:39: component `ai` sends `x` and expects `Place` in reply, but `stats.score` replies `Rank`; change `reply` here, or at the input"
    );
    assert_eq!(
        sending("['render.world', 'stats.score']"),
        "12:26: `render.world` takes `World`, but `stats.score` takes `Score`; make them agree, or send to each through an output of its own"
    );
    let replies = "[component.a]\nprogram = 'a'\nin.x = 'X'\n[component.b]\nprogram = 'b'\nin.x = { type = 'X', reply = 'Y' }\n";
    assert_eq!(
        below_head(&format!("{replies}[component.c]\nprogram = 'c'\nout.y = ['a.x', 'b.x']")),
        "11:17: `a.x` replies nothing, but `b.x` replies `Y`; make them agree, or send to each through an output of its own"
    );
}

/// Components `a`, `b`, `c` that call each other in a circle.
const CIRCLE: &str = "[component.a]\nprogram = 'p'\nin.x = 'X'\nout.y = 'b.x'\n[component.b]\nprogram = 'p'\n\
                      in.x = 'X'\nout.y = 'c.x'\n[component.c]\nprogram = 'p'\nin.x = 'X'\nout.y = 'a.x'\n";

#[test]
fn a_circle_of_calls_is_named_where_none_is_allowed() {
    assert_eq!(
        below_head(CIRCLE),
        "14:9: the calls go in a circle: `a` → `b` → `c` → `a`; take one of these calls out, or allow it with `cycles = true` in `[application]`"
    );
    let start = "[component.start]\nprogram = 'p'\nout.x = 'b.x'\n";
    assert_eq!(
        below_head(&format!("{start}{CIRCLE}")),
        "9:9: the calls go in a circle: `b` → `c` → `a` → `b`; take one of these calls out, or allow it with `cycles = true` in `[application]`"
    );
}

#[test]
fn numbers_out_of_their_range_are_named_with_the_range() {
    assert_eq!(
        headline("[application]\nname = 'a'\nidle_latency_us = -1\n[component.b]\nprogram = 'b'"),
        "3:19: `idle_latency_us` is -1; use a whole number from 0 to 1000000"
    );
    assert_eq!(in_component("capacity = 0"), "5:12: `capacity` is 0; use a whole number from 1 to 65536");
    assert_eq!(
        in_component("capacity = 65537"),
        "5:12: `capacity` is 65537; use a whole number from 1 to 65536"
    );
    assert_eq!(in_component("capacity = -1"), "5:12: `capacity` is -1; use a whole number from 1 to 65536");
    assert_eq!(in_component("warm = 100001"), "5:8: `warm` is 100001; use a whole number from 0 to 100000");
    assert_eq!(in_component("max = 100001"), "5:7: `max` is 100001; use a whole number from 1 to 100000");
    assert_eq!(in_component("max = 0"), "5:7: `max` is 0; use a whole number from 1 to 100000");
    assert_eq!(
        in_component("warm = 5\nmax = 4"),
        "5:8: `warm` is 5, but `max` is only 4; lower `warm`, or raise `max`"
    );
    assert_eq!(in_component("cores = 5000"), "5:9: `cores` is 5000; use a whole number from 0 to 4096");
    assert_eq!(
        in_component("wait = { spin_us = 1000001 }"),
        "5:20: `spin_us` is 1000001; use a whole number from 0 to 1000000"
    );
    assert_eq!(
        in_component("wait = 'spinn'"),
        "5:8: there is no way to wait named `spinn`; did you mean `spin`?"
    );
    assert_eq!(
        in_component("start_timeout_ms = 0"),
        "5:20: `start_timeout_ms` is 0; use a whole number from 1 to 3600000"
    );
    assert_eq!(
        in_component("stop_timeout_ms = 3600001"),
        "5:19: `stop_timeout_ms` is 3600001; use a whole number from 1 to 3600000"
    );
    assert_eq!(in_component("processes = 7"), "5:13: `processes` is 7; use a whole number from 8 to 4194304");
    assert_eq!(
        in_component("cores = 1\nrealtime = 50"),
        "6:12: `realtime` is 50; use a whole number from 1 to 49"
    );
    assert_eq!(
        in_component("disk_read = '50MiB'"),
        "5:13: `disk_read` can't be \"50MiB\"; write a number of bytes a second, or a text like \"50MiB/s\""
    );
    assert_eq!(
        in_component("tick_hz = 0"),
        "5:11: `tick_hz` is 0; use more than 0 and at most 10000, or leave it out for no ticks"
    );
    assert_eq!(
        in_component("tick_hz = -60.0"),
        "5:11: `tick_hz` is -60; use more than 0 and at most 10000, or leave it out for no ticks"
    );
    assert_eq!(
        in_component("tick_hz = nan"),
        "5:11: `tick_hz` is NaN; use more than 0 and at most 10000, or leave it out for no ticks"
    );
    assert_eq!(
        in_component("tick_hz = inf"),
        "5:11: `tick_hz` is inf; use more than 0 and at most 10000, or leave it out for no ticks"
    );
    assert_eq!(
        in_component("tick_hz = 10000.5"),
        "5:11: `tick_hz` is 10000.5; use more than 0 and at most 10000, or leave it out for no ticks"
    );
}

#[test]
fn a_malformed_size_is_named_with_an_example() {
    assert_eq!(
        in_component("memory = '64mb'"),
        "5:10: `memory` can't be \"64mb\"; write a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)"
    );
    assert_eq!(in_component("share = -0.5"), "5:9: `share` is -0.5; use a number from 0 to 4096");
    assert_eq!(
        in_component("gpu_memory = -1"),
        "5:14: `gpu_memory` can't be -1; write a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)"
    );
    assert_eq!(
        in_component("memory = '99999999999TiB'"),
        "5:10: `memory` can't be \"99999999999TiB\"; write a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)"
    );
    assert_eq!(
        in_component("bandwidth = '1GB'"),
        "5:13: `bandwidth` can't be \"1GB\"; write a number of bits a second, or a text like \"1Gbit/s\""
    );
    for (text, shown) in [("0", "0"), ("999", "999"), ("'0Gbit/s'", "0")] {
        assert_eq!(
            in_component(&format!("bandwidth = {text}")),
            format!(
                "5:13: `bandwidth` is {shown} bit/s; use at least 1 kbit/s, or leave it out: then a shard sends as much as it can"
            )
        );
    }
    assert_eq!(
        in_component("bandwidth = '18446745Tbit/s'"),
        "5:13: `bandwidth` can't be \"18446745Tbit/s\"; write a number of bits a second, or a text like \"1Gbit/s\""
    );
    assert_eq!(
        in_component("in.a = { type = 'A', max = '65MiB' }"),
        "5:28: `max` is 65 MiB; use between 1 B and 64 MiB"
    );
    assert_eq!(
        in_component("in.a = { type = 'A', max = 0 }"),
        "5:28: `max` is 0 B; use between 1 B and 64 MiB"
    );
    assert_eq!(
        sending("{ to = 'render.world', ring = '1000KiB' }"),
        "12:39: `ring` is 1000 KiB, which is no power of two; use 1 MiB"
    );
    assert_eq!(
        sending("{ to = 'render.world', ring = 2048 }"),
        "12:39: `ring` is 2 KiB; use between 4 KiB and 64 MiB"
    );
    assert_eq!(
        sending("{ to = 'render.world', ring = '128MiB' }"),
        "12:39: `ring` is 128 MiB; use between 4 KiB and 64 MiB"
    );
}

#[test]
fn a_bad_name_is_named_with_the_rule() {
    assert_eq!(
        headline("[application]\nname = ''"),
        "2:8: `` can't be the name of an application; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(
        headline("[application]\nname = '../x'"),
        "2:8: `../x` can't be the name of an application; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(
        below_head("[component.Ai]\nprogram = 'ai'"),
        "3:12: `Ai` can't be the name of a component; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(
        below_head(&format!("[component.{}]\nprogram = 'ai'", "a".repeat(NAME_BYTES_MAX + 1))),
        "3:12: the component's name is 65 bytes long; use at most 64"
    );
    assert_eq!(
        below_head("[component.embedder]\nprogram = 'ai'"),
        "3:12: no component can be named `embedder`: the name is taken; give it another name, or write `[embedder]` for the end that the embedding program holds"
    );
    assert_eq!(
        in_component("in.'a b' = 'A'"),
        "5:4: `a b` can't be the name of a port; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(
        in_component("in.a = ''"),
        "5:8: `` can't be the name of a type; write what the type's `Wire::NAME` says: ASCII, without spaces"
    );
    assert_eq!(
        in_component("in.a = 'two words'"),
        "5:8: `two words` can't be the name of a type; write what the type's `Wire::NAME` says: ASCII, without spaces"
    );
    assert_eq!(
        in_component(&format!("in.a = '{}'", "A".repeat(TYPE_BYTES_MAX + 1))),
        "5:8: the type's name is 129 bytes long; use at most 128"
    );
    assert_eq!(
        in_component("[composition.1]"),
        "5:14: `1` can't be the name of a composition; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(
        in_component("in.a = 'A'\nout.a = 'b.c'"),
        "6:5: `a` is the name of an input and of an output; name each port of a component differently"
    );
}

#[test]
fn a_program_that_the_kernel_could_not_start_is_refused() {
    assert_eq!(
        below_head("[component.ai]\nprogram = ''"),
        "4:11: `program` is empty; name the program that a shard runs"
    );
    assert_eq!(
        below_head("[component.ai]\nprogram = \"a\\u0000b\""),
        "4:11: the kernel takes no zero byte here; leave the `\\u0000` out"
    );
    assert_eq!(
        in_component("args = [\"\\u0000\"]"),
        "5:9: the kernel takes no zero byte here; leave the `\\u0000` out"
    );
    assert_eq!(
        in_component("env = { 'A=B' = 'c' }"),
        "5:9: `A=B` can't be an environment variable; use a name without `=`"
    );
    assert_eq!(
        in_component(&format!("args = ['{}']", "x".repeat(PROGRAM_BYTES_MAX))),
        "4:11: program, arguments and environment take 65540 bytes; use at most 65536; put more into a file"
    );
}

#[test]
fn a_config_that_json_can_not_hold_is_refused() {
    assert_eq!(
        in_component("config = { a = [1.5, nan] }"),
        "5:10: `config` holds a number that JSON does not know (`nan` or `inf`); write it as a text"
    );
    assert_eq!(
        in_component(&format!("config = {{ a = '{}' }}", "x".repeat(CONFIG_BYTES_MAX))),
        "5:10: `config` takes 65544 bytes as JSON; use at most 65536; put more into a file"
    );
}

#[test]
fn a_text_that_nests_too_deeply_is_refused_before_it_can_exhaust_the_stack() {
    // 79 brackets around 75 dots each: the parser takes it and builds 6000 levels.
    let deep = format!("{}1{}", format!("{{{}z=", "a.".repeat(75)).repeat(79), "}".repeat(79));
    let shown = "tables and lists nest more than 32 deep here; nest less deeply";
    assert_eq!(in_component(&format!("config = {deep}")), format!("5:74: {shown}"));
    assert_eq!(in_component(&format!("capacity = {deep}\ncapacity = {deep}")), format!("5:76: {shown}"));
    assert_eq!(in_component(&format!("config = {}", "[".repeat(1000))), format!("5:42: {shown}"));
}

#[test]
fn a_config_that_passes_can_be_read_again_however_deep_it_is() {
    // The deepest header that may be, with the deepest entry below it.
    let header = |keys: usize| format!("[component.ai.config.{}z]\n", "a.".repeat(keys));
    let deep = format!("z = {}{}", "[".repeat(32), "]".repeat(32));
    let text = |keys| format!("{HEAD}[component.ai]\nprogram = 'ai'\n{}{deep}", header(keys));
    let read = Manifest::parse(&text(28), "arena.toml").unwrap();
    let config = &read.application().components[0].config_json;
    assert!(serde_json::from_str::<serde_json::Value>(config).is_ok());
    assert!(Manifest::parse(&text(29), "arena.toml").is_err());
}

#[test]
fn a_generic_program_that_can_become_nothing_something_unknown_or_what_another_can_is_refused() {
    let generic = |more: &str| in_component(&format!("[generic.any]\nprogram = 'p'\n{more}"));
    assert_eq!(generic(""), "5:1: the key `components` is missing; add `components = …`");
    assert_eq!(
        generic("components = []"),
        "7:14: the generic program `any` can become nothing; name a component in `components`"
    );
    assert_eq!(
        generic("components = ['ai', 'aj']"),
        "7:21: the generic program `any` names `aj`, but there is no such component; did you mean `ai`?"
    );
    assert_eq!(
        generic("components = ['ai', 'ai']"),
        "7:21: the generic program `any` names `ai` twice; name each component once"
    );
    assert_eq!(
        generic("components = ['embedder']\n[embedder]"),
        "7:15: the generic program `any` names the embedder, which has no shards; leave it out"
    );
    assert_eq!(
        generic("components = ['ai']\n[generic.other]\nprogram = 'p'\ncomponents = ['ai']"),
        "10:15: `ai` is in the generic program `any` already, and `other` names it too; leave it in one of them"
    );
    assert_eq!(
        generic("components = ['ai']\nspares = 257"),
        "8:10: `spares` is 257; use a whole number from 0 to 256"
    );
    assert_eq!(
        generic("components = ['ai']\nspares = 'many'"),
        "8:10: `spares` can't be `many`; use a whole number from 0 to 256, or `auto`"
    );
    assert_eq!(
        generic("components = ['ai']\nspares_max = 257"),
        "8:14: `spares_max` is 257; use a whole number from 0 to 256"
    );
    assert_eq!(
        generic("components = ['ai']\nspares = 2\nspares_max = 3"),
        "9:14: `spares_max` bounds what a policy chooses, but `spares` is 2; leave it out, or write `spares = \"auto\"`"
    );
    assert_eq!(
        in_component("[generic.any]\nprogram = ''\ncomponents = ['ai']"),
        "6:11: `program` is empty; name the program that a shard runs"
    );
    assert_eq!(
        in_component("[generic.Any]\nprogram = 'p'\ncomponents = ['ai']"),
        "5:10: `Any` can't be the name of a generic program; use lower-case letters, digits, `-` and `_`, beginning with a letter"
    );
    assert_eq!(generic("component = ['ai']"), "7:1: unknown key `component`; did you mean `components`?");
    let many = |count| {
        let tables = |n| {
            format!("[component.c{n}]\nprogram = 'p'\n[generic.g{n}]\nprogram = 'p'\ncomponents = ['c{n}']\n")
        };
        (0..count).map(tables).collect::<String>()
    };
    assert_eq!(below_head(&many(GENERICS_MAX + 1)), "325:10: there are 65 generic programs; use at most 64");
    Manifest::parse(&format!("{HEAD}{}", many(GENERICS_MAX)), "arena.toml").unwrap();
}

#[test]
fn a_word_for_what_becomes_of_a_shard_that_is_none_is_refused() {
    assert_eq!(in_component("after = 'scrubb'"), "5:9: `after` can't be `scrubb`; did you mean `scrub`?");
    assert_eq!(
        in_component("after = 'nothing'"),
        "5:9: `after` can't be `nothing`; the words are `return`, `scrub`, `restart`"
    );
    assert_eq!(in_component("zygote = 1"), "5:10: wrong type: integer `1`; write a boolean");
}

#[test]
fn a_composition_without_components_or_with_unknown_ones_is_refused() {
    assert_eq!(
        in_component("[composition.a]\nentry = []"),
        "6:9: composition `a` has no components: its `entry` is empty; name a component, or leave `entry` out"
    );
    assert_eq!(
        in_component("[composition.a]\nentry = ['aj']"),
        "6:10: composition `a` begins at `aj`, but there is no such component; did you mean `ai`?"
    );
    assert_eq!(
        in_component("[composition.a]\nentry = ['ai', 'ai']"),
        "6:16: composition `a` names `ai` twice; name each entry once"
    );
    assert_eq!(
        in_component("[embedder]\n[composition.a]\nentry = ['embedder']"),
        "7:10: composition `a` names the embedder, which is part of every session; leave it out"
    );
    assert_eq!(in_component("[composition.a]\nentry = 'ai'"), "6:9: wrong type: string \"ai\"; write a list");
}

#[test]
fn an_application_needs_a_component() {
    assert_eq!(
        headline("[application]\nname = 'arena'"),
        "2:8: the application has no components; add one: `[component.NAME]` with a `program`"
    );
    assert_eq!(
        below_head("[embedder]"),
        "2:8: the application has no components; add one: `[component.NAME]` with a `program`"
    );
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
    assert_eq!(
        headline(&components(COMPONENTS_MAX + 1)),
        "515:12: there are 257 components; use at most 256"
    );
    assert_eq!(
        headline(&(components(COMPONENTS_MAX) + "[embedder]")),
        "513:12: there are 257 components, counting the embedder; use at most 256"
    );

    let list = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let inputs = |count| {
        format!("{HEAD}[component.a]\nprogram = 'p'\n{}", list(count, &|n| format!("in.p{n} = 'X'\n")))
    };
    Manifest::parse(&inputs(PORTS_MAX), "arena.toml").unwrap();
    assert_eq!(headline(&inputs(PORTS_MAX + 1)), "1029:4: there are 1025 inputs; use at most 1024");
    let compositions =
        |count| format!("{}{}", components(1), list(count, &|n| format!("[composition.p{n}]\n")));
    Manifest::parse(&compositions(COMPOSITIONS_MAX), "arena.toml").unwrap();
    assert_eq!(
        headline(&compositions(COMPOSITIONS_MAX + 1)),
        "261:14: there are 257 compositions; use at most 256"
    );
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
        manifest.check_needs(&host).map_err(|error| error.to_string().lines().next().unwrap().to_owned())
    };
    let component = |name: &str, needs: &str| format!("[component.{name}]\nprogram = 'p'\n{needs}\n");
    assert_eq!(check(&component("a", "cores = 1\nwarm = 3\nmax = 99\nmemory = '341MiB'")), Ok(()));
    assert_eq!(check(&component("a", "cores = 4\nwarm = 0")), Err("arena.toml:5:9: one shard of `a` needs 4 cores of their own, but the host has 4 and keeps one for all others; lower what it needs, or use a larger host".into()));
    assert_eq!(check(&component("a", "memory = '2GiB'")), Err("arena.toml:5:10: one shard of `a` needs 2 GiB of memory, but the host has 1 GiB; lower what it needs, or use a larger host".into()));
    assert_eq!(check(&component("a", "gpu_memory = '1MB'")), Err("arena.toml:5:14: one shard of `a` needs 1000000 B of GPU memory, but the host has 0 B; lower what it needs, or use a larger host".into()));
    let two = component("a", "cores = 2") + &component("b", "cores = 1\nwarm = 2");
    assert_eq!(check(&two), Err("arena.toml:8:9: with `b`, the warm shards together need 4 cores of their own, but the host has 4 and keeps one for all others; lower `warm` (2 here) or what a shard needs, or use a larger host".into()));
    assert_eq!(check(&component("a", "memory = '1MiB'\nwarm = 1025")), Err("arena.toml:5:10: with `a`, the warm shards together need 1025 MiB of memory, but the host has 1 GiB; lower `warm` (1025 here) or what a shard needs, or use a larger host".into()));
    assert_eq!(check(&component("a", "memory = '0B'\nwarm = 100000\ncores = 0")), Ok(()));
}

#[test]
fn a_wrong_pool_is_named() {
    let pool = |line: &str| in_component(&format!("[pool]\n{line}"));
    for (line, says) in [
        (
            "policy = \"expected-costs\"",
            "there is no policy named `expected-costs`; did you mean `expected-cost`?",
        ),
        ("policy = \"keep-alive-0\"", "there is no policy named `keep-alive-0`"),
        ("bin_s = 0", "`bin_s` is 0; use a number from 0.1 to 86400"),
        ("bin_s = nan", "`bin_s` is NaN"),
        ("prices = { core_hour = -1 }", "`core_hour` is -1; use a number from 0 to 1000000000"),
        ("prices = { cores = 1 }", "unknown key `cores`"),
        ("polici = 1", "unknown key `polici`; did you mean `policy`?"),
    ] {
        let error = pool(line);
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn wrong_limits_of_a_pool_are_named() {
    for (scale, says) in [
        ("{ fraction = -0.1 }", "`fraction` is -0.1; use a number from 0 to 1000"),
        ("{ step_up = 0 }", "`step_up` is 0; use a whole number from 1 to 100000"),
        ("{ schedule = [{ from = \"25:00\", to = \"02:00\" }] }", "`25:00` is no time of day"),
        ("{ schedule = [{ from = \"8:00\", to = \"02:00\" }] }", "`8:00` is no time of day"),
        ("{ schedule = [{ from = \"08:00\" }] }", "`to`"),
        (
            "{ schedule = [{ days = [\"mun\"], from = \"08:00\", to = \"09:00\" }] }",
            "there is no day named `mun`; did you mean `mon`?",
        ),
        (
            "{ schedule = [{ from = \"08:00\", to = \"09:00\", floor = 3, ceiling = 2 }] }",
            "`floor` is 3, but `ceiling` is only 2",
        ),
    ] {
        let error = in_component(&format!("scale = {scale}"));
        assert!(error.contains(says), "{scale}: {error}");
    }
    assert!(in_component("frozen = 1").contains("`max` leaves only 0 beyond `warm`"));
    assert!(in_component("after = \"resart\"").contains("did you mean `restart`?"));
}

#[test]
fn what_a_component_may_not_be_allowed_is_named() {
    let allow = |line: &str| in_component(&format!("[component.ai.allow]\n{line}"));
    assert_eq!(
        in_component("isolation = 'nativ'"),
        "5:13: there is no isolation named `nativ`; did you mean `native`?"
    );
    assert_eq!(
        in_component("isolation = 'none'\nallow.network = true"),
        "6:1: `allow` has no meaning where `isolation` is \"none\"; leave one of them out"
    );
    assert_eq!(
        allow("syscalls = ['falocate']"),
        "6:13: there is no system call `falocate`; did you mean `fallocate`?"
    );
    for path in ["data", "/", "/data/../etc", "/a\\u0000b"] {
        let told = allow(&format!("read = [\"{path}\"]"));
        assert!(told.starts_with("6:9: `read` can't hold"), "{told}");
        assert!(told.ends_with("write a whole path below `/`, without `..`"), "{told}");
    }
    assert_eq!(
        allow("write = ['/proc/sys']"),
        "6:10: `write` names `/proc/sys`, but a shard has a `/proc` of its own; leave it out"
    );
    let many = vec!["'/dev/null'"; ALLOWED_MAX + 1].join(", ");
    let told = allow(&format!("devices = [{many}]"));
    assert!(told.contains("65 paths in `devices`"), "{told}");
    assert!(allow("networks = true").contains("did you mean `network`?"));
    let text = "[component.a]\nprogram = 'p'\nallow.network = true\n[component.b]\nprogram = 'p'\n[generic.g]\nprogram = 'p'\ncomponents = ['a', 'b']";
    assert_eq!(
        below_head(text),
        "10:20: `a` and `b` are in the generic program `g`, but not isolated alike; give both the same `isolation` and `allow`: a process is isolated before it is either"
    );
}

#[test]
fn real_time_priority_needs_a_core_of_its_own_and_a_shard_that_sleeps_at_times() {
    assert_eq!(
        in_component("share = 1\nrealtime = 10"),
        "6:12: `realtime` of `ai` would hold up all others on the cores that it shares; give it cores of its own, such as `cores = 1`, or leave `realtime` out"
    );
    assert_eq!(
        in_component("cores = 1\nwait = 'spin'\nrealtime = 10"),
        "7:12: `ai` polls for ever, and with `realtime` the kernel would stop it in each second; write another `wait`, or leave `realtime` out"
    );
    assert_eq!(
        headline("[application]\nname = 'a'\n[component.b]\nimage = 'oci:x'\ncores = 1\nrealtime = 1"),
        "6:12: component `b` is an image, and a container has no real-time priority; leave `realtime` out"
    );
}
