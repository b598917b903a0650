//! The host file: what it says arrives, overrides what was probed, and errors say where and what would be right.

use crate::declared;
use proptest::prelude::*;
use shard_composer::resources::{GpuInstance, HostFile, HugePages, Inventory, Nic, Node, Processor};

fn error(text: &str) -> String {
    let error = HostFile::parse(text, "host.toml").unwrap_err().to_string();
    error.lines().next().unwrap().to_owned()
}

#[test]
fn every_key_of_a_host_file_arrives() {
    let host = declared(
        "probe = false\nhost = 'rack-7'\n[node.1]\nprocessors = '4,6-7'\nisolated = '6-7'\nsiblings = ['6,7']\n\
         memory = '60GiB'\nhuge_pages = { 2MiB = 512 }\ndistances = [21, 10]\n[node.0]\nprocessors = '0'\n\
         [gpu.first]\nnode = 1\nmemory = '80GiB'\ninstances = { a = '10GiB' }\n\
         [nic.eth0]\nnode = 0\nspeed = '25Gbit/s'\nrdma = 'mlx5_0'",
    );
    assert_eq!(host.host, "rack-7");
    let processor = |id, core, isolated| Processor { id, core, cache: 4, isolated };
    let node = Node {
        id: 1,
        distances: vec![21, 10],
        processors: vec![processor(4, 4, false), processor(6, 6, true), processor(7, 6, true)],
        memory_bytes: 60 << 30,
        huge_pages: vec![HugePages { page_bytes: 2 << 20, count: 512 }],
    };
    assert_eq!((host.nodes[0].id, &host.nodes[1]), (0, &node));
    assert_eq!((host.gpus[0].node, host.gpus[0].memory_bytes), (Some(1), 80 << 30));
    assert_eq!(host.gpus[0].instances, [GpuInstance { name: "a".into(), memory_bytes: 10 << 30 }]);
    let nic = Nic {
        name: "eth0".into(),
        rdma: Some("mlx5_0".into()),
        node: Some(0),
        bits_per_s: Some(25_000_000_000),
    };
    assert_eq!(host.nics, [nic]);
}

#[test]
fn a_host_file_overrides_what_was_probed_key_by_key() {
    let probed = declared(
        "probe = false\nhost = 'here'\n[node.0]\nprocessors = '0-3'\nisolated = '3'\nmemory = '8GiB'\n[nic.eth0]\nnode = 0",
    );
    let file = HostFile::parse(
        "[node.0]\nprocessors = '1-3'\n[nic.eth0]\nspeed = '1Gbit/s'\n[gpu.new]\nmemory = '1GiB'",
        "host.toml",
    );
    let host = file.unwrap().apply(probed.clone()).unwrap();
    assert_eq!((host.host.as_str(), host.memory_bytes()), ("here", 8 << 30));
    let ids: Vec<_> = host.processors().map(|processor| (processor.id, processor.isolated)).collect();
    assert_eq!(ids, [(1, false), (2, false), (3, true)]);
    assert_eq!((host.nics[0].node, host.nics[0].bits_per_s), (Some(0), Some(1_000_000_000)));
    assert_eq!(host.gpu_memory_bytes(), 1 << 30);
    let nothing = HostFile::parse("", "host.toml").unwrap();
    assert!(!nothing.keeps_interrupts_off(), "it changes what belongs to the whole host");
    assert!(HostFile::parse("keep_interrupts_off = true", "host.toml").unwrap().keeps_interrupts_off());
    let nothing = nothing.apply(probed.clone()).unwrap();
    assert_eq!(nothing, probed);
}

#[test]
fn a_wrong_host_file_is_an_error_with_file_line_cause_and_cure() {
    for (text, expected) in [
        ("[nodes.0]", "host.toml:1:2: unknown key `nodes`; did you mean `node`?"),
        ("[node.0]\nprocessor = '0'", "host.toml:2:1: unknown key `processor`; did you mean `processors`?"),
        ("[node.x]", "host.toml:1:7: `x` can't be a node; use the kernel's number, as in `[node.0]`"),
        ("[node.007]", "host.toml:1:7: `007` can't be a node; use the kernel's number, as in `[node.0]`"),
        (
            "[node.0]\nprocessors = '3-1'",
            "host.toml:2:14: \"3-1\" is no list of processors; write numbers below 8192 and ranges of them, as in \"0-3,8\"",
        ),
        (
            "[node.0]\nprocessors = '0-99999999999'",
            "host.toml:2:14: \"0-99999999999\" is no list of processors; write numbers below 8192 and ranges of them, as in \"0-3,8\"",
        ),
        (
            "[node.0]\nmemory = '1 pound'",
            "host.toml:2:10: `memory` can't be \"1 pound\"; write a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)",
        ),
        (
            "[node.0]\nhuge_pages = { 3MiB = 1 }",
            "host.toml:2:16: `3MiB` can't be the size of a huge page; write a power of two with its unit, as in `huge_pages = { 2MiB = 512 }`",
        ),
        (
            "[nic.a]\nspeed = 'fast'",
            "host.toml:2:9: `speed` can't be \"fast\"; write a number of bits a second, or a text like \"25Gbit/s\"",
        ),
        ("[gpu.a]\nnode = -1", "host.toml:2:8: `node` is -1; use a whole number from 0 to 65535"),
        (
            "host = 'a b'",
            "host.toml:1:8: this can't be a name; use 1 to 128 letters, digits and signs, without spaces",
        ),
        ("probe = 'no'", "host.toml:1:9: wrong type: string \"no\"; write a boolean"),
        (
            "[node.0",
            "host.toml:1:8: not valid TOML: unclosed table, expected `]`; write it as TOML 1.0 asks for (texts in quotes, one `key = value` a line)",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
    assert_eq!(
        HostFile::read("/nowhere/host.toml").unwrap_err().to_string(),
        "/nowhere/host.toml: the host file can't be read: No such file or directory (os error 2); name a file that can"
    );
}

#[test]
fn what_contradicts_itself_is_named() {
    let refused = |text: &str| {
        let file = HostFile::parse(text, "host.toml").unwrap();
        file.apply(Inventory::empty()).unwrap_err().to_string()
    };
    for (text, expected) in [
        (
            "probe = false",
            "host `this host`: it has no processor that may be used; give a node `processors = \"0-3\"`",
        ),
        (
            "probe = false\n[node.0]\nprocessors = '0-1'\n[node.1]\nprocessors = '1'",
            "host `this host`: processor 1 is there twice; name each in one node only",
        ),
        (
            "probe = false\n[node.0]\nprocessors = '0'\n[gpu.a]\ninstances = { a = '1GiB' }",
            "host `this host`: the GPU or instance `a` is there twice; name each once",
        ),
        (
            "probe = false\n[node.0]\nprocessors = '0'\nmemory = '16777215TiB'",
            "host `this host`: it has more than 72057594037927936 of memory; write what it has",
        ),
    ] {
        assert_eq!(refused(text), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_host_file_or_an_error_that_names_the_file(
        parts in prop::collection::vec(prop::sample::select(vec![
            "[node.0]\n", "[gpu.a]\n", "[nic.b]\n", "probe = false\n", "processors = '0-3'\n", "memory = '1GiB'\n",
            "huge_pages = { 2MiB = 9 }\n", "speed = 1\n", "isolated = '1'\n", "instances = { x = 1 }\n", "node = 0\n",
            "distances = [10]\n", "siblings = ['0,1']\n", "= 'x'\n", "[", "9", "'",
        ]), 0..12)
    ) {
        match HostFile::parse(&parts.concat(), "host.toml") {
            Ok(file) => { let _ = file.apply(Inventory::empty()); }
            Err(error) => prop_assert!(error.to_string().starts_with("host.toml:")),
        }
    }
}
