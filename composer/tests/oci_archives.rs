//! Images as hostile archives have them: an error that says what is wrong, and nothing written outside of the folder.

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use shard_composer::oci::{Cache, Image, Limits, OciError, Order, build};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::EntryType;
use tempfile::TempDir;

/// One entry of a layer.
#[derive(Clone, Debug)]
struct Entry {
    kind: EntryType,
    path: String,
    target: String,
    content: Vec<u8>,
    mode: u32,
}

fn file(path: &str, content: &str) -> Entry {
    Entry {
        kind: EntryType::Regular,
        path: path.into(),
        target: String::new(),
        content: content.into(),
        mode: 0o644,
    }
}

fn folder(path: &str) -> Entry {
    Entry { kind: EntryType::Directory, ..file(path, "") }
}

fn link(kind: EntryType, path: &str, target: &str) -> Entry {
    Entry { kind, target: target.into(), ..file(path, "") }
}

fn symlink(path: &str, target: &str) -> Entry {
    link(EntryType::Symlink, path, target)
}

/// A layer, with names as they are, which the crate itself would refuse to write.
fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.content.len() as u64);
        let old = header.as_old_mut();
        old.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        old.linkname[..entry.target.len()].copy_from_slice(entry.target.as_bytes());
        header.set_cksum();
        archive.append(&header, &entry.content[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[Vec<u8>]) -> String {
    let digests: Vec<String> = layers.iter().map(|layer| format!("\"sha256:{}\"", hex(layer))).collect();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!(
        r#"{{"architecture":"{arch}","os":"linux","config":{{"Entrypoint":["/p"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        digests.join(",")
    )
}

/// The files of an image layout, by name. Layers are packed as `pack` does it.
fn layout(layers: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let (hex, size) = (hex(&bytes), bytes.len());
        files.push((format!("blobs/sha256/{hex}"), bytes));
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{hex}","size":{size}}}"#)
    };
    let packed: Vec<String> = layers.iter().map(|layer| blob("layer.v1.tar+gzip", pack(layer))).collect();
    let config = blob("config.v1+json", config(layers).into_bytes());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, packed.join(","));
    let manifest = blob("manifest.v1+json", manifest.into_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    files.push(("index.json".into(), index.into_bytes()));
    files
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries = files.iter().map(|(path, bytes)| Entry { content: bytes.clone(), ..file(path, "") });
    layer(&entries.collect::<Vec<_>>())
}

/// A folder in which an image is unpacked, and what is around it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn image(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn unpack_image(&self, bytes: &[u8], limits: Limits) -> Result<(), OciError> {
        Image::open(&self.image(bytes), limits)?.unpack(&self.root())
    }

    /// Unpacks layers, and looks whether anything outside has changed.
    fn unpack(&self, layers: &[Vec<Entry>]) -> Result<(), OciError> {
        let layers: Vec<Vec<u8>> = layers.iter().map(|entries| layer(entries)).collect();
        let done = self.unpack_image(&archive(&layout(&layers, gzip)), Limits::default());
        self.check_outside();
        done
    }

    fn check_outside(&self) {
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.folder.path()), ["image.tar", "outside", "root"]);
        assert_eq!(names(&self.folder.path().join("outside")), ["secret"]);
        let secret = self.folder.path().join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root().join(path)).ok()
    }
}

fn refused(layers: &[Vec<Entry>]) -> OciError {
    Place::new().unpack(layers).expect_err("it must be refused")
}

#[test]
fn layers_lie_over_each_other_and_whiteouts_hide_what_is_below() {
    let place = Place::new();
    let below = vec![
        folder("./"),
        folder("etc/"),
        file("etc/a", "a"),
        file("etc/b", "b"),
        file("opaque/old", "old"),
        folder("opaque/deep"),
        file("opaque/deep/old", "old"),
        file("gone/x/y", "y"),
    ];
    let above = vec![
        file("etc/.wh.a", ""),
        file("etc/b", "new"),
        file("opaque/new", "new"),
        file("opaque/.wh..wh..opq", ""),
        file(".wh.gone", ""),
        Entry { mode: 0o755, ..file("p", "program") },
        link(EntryType::Link, "q", "p"),
        symlink("lib", "/usr/lib"),
        folder("usr/lib"),
        file("lib/through", "in the root"),
    ];
    place.unpack(&[below, above]).unwrap();
    assert_eq!(place.read("etc/a"), None);
    assert_eq!(place.read("etc/b").as_deref(), Some("new"));
    assert_eq!(place.read("opaque/old"), None);
    assert!(!place.root().join("opaque/deep").exists());
    assert_eq!(place.read("opaque/new").as_deref(), Some("new"));
    assert!(!place.root().join("gone").exists());
    assert_eq!(place.read("q").as_deref(), Some("program"));
    assert_eq!(place.read("usr/lib/through").as_deref(), Some("in the root"));
    assert_eq!(fs::metadata(place.root().join("p")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(fs::metadata(place.root().join("etc/b")).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(fs::metadata(place.root().join("etc")).unwrap().mode() & 0o7777, 0o555);
}

#[test]
fn all_forms_of_an_image_give_the_same_files() {
    let layers = [layer(&[file("p", "program")])];
    let check = |name: &str, path: &Path, place: &Place| {
        Image::open(path, Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .unpack(&place.root())
            .unwrap();
        assert_eq!(place.read("p").as_deref(), Some("program"), "{name}");
    };
    for (name, pack) in [("plain", <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>), ("gzip", gzip)] {
        let files = layout(&layers, pack);
        let place = Place::new();
        check(name, &place.image(&archive(&files)), &place);
        let (place, there) = (Place::new(), tempfile::tempdir().unwrap());
        for (path, bytes) in &files {
            let path = there.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        check(name, there.path(), &place);
    }
    let place = Place::new();
    let saved = place.image(&docker_save(&layers[0]));
    check("docker save", &saved, &place);
}

/// What an old `docker save` writes; the layer is there once, and linked to.
fn docker_save(bytes: &[u8]) -> Vec<u8> {
    let config = config(&[bytes.to_vec()]);
    let name = hex(config.as_bytes());
    let manifest = format!(r#"[{{"Config":"{name}.json","RepoTags":null,"Layers":["b/layer.tar"]}}]"#);
    layer(&[
        Entry { content: bytes.to_vec(), ..file("a/layer.tar", "") },
        symlink("b/layer.tar", "../a/layer.tar"),
        file(&format!("{name}.json"), &config),
        file("manifest.json", &manifest),
    ])
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    for path in ["../outside/x", "a/../../outside/x", ".."] {
        assert!(matches!(refused(&[vec![file(path, "x")]]), OciError::Outside { .. }), "{path}");
    }
    assert!(matches!(refused(&[vec![file("a/.wh...", "")]]), OciError::Outside { .. }));
}

#[test]
fn a_path_from_the_root_is_refused() {
    assert!(matches!(refused(&[vec![file("/outside/x", "x")]]), OciError::Outside { .. }));
}

#[test]
fn a_symlink_that_climbs_out_is_refused() {
    for (path, target) in
        [("a", "../outside"), ("a/b", "../../outside"), ("a", "b/../../outside"), ("a", "/..")]
    {
        let error = refused(&[vec![symlink(path, target)]]);
        assert!(matches!(error, OciError::LinkOutside { .. }), "{path} {target}: {error}");
    }
}

#[test]
fn what_is_written_through_a_symlink_stays_in_the_image() {
    let place = Place::new();
    let outside = place.folder.path().join("outside");
    let outside = outside.to_str().unwrap();
    place.unpack(&[vec![symlink("a", outside)], vec![file("a/x", "x"), file("a/.wh.secret", "")]]).ok();
    place.check_outside();
    let place = Place::new();
    place.unpack(&[vec![folder("b"), symlink("a", "/b"), file("a/x", "x")]]).unwrap();
    assert_eq!(place.read("b/x").as_deref(), Some("x"));
    // The file itself is never followed.
    let place = Place::new();
    place.unpack(&[vec![symlink("s", "/outside/secret"), file("s", "mine")]]).unwrap();
    assert_eq!(place.read("s").as_deref(), Some("mine"));
}

#[test]
fn a_hard_link_out_of_the_image_is_refused() {
    for target in ["../outside/secret", "/etc/passwd"] {
        let error = refused(&[vec![link(EntryType::Link, "a", target)]]);
        assert!(matches!(error, OciError::LinkOutside { .. }), "{error}");
    }
    let error = refused(&[vec![symlink("s", "/etc"), link(EntryType::Link, "a", "s/passwd")]]);
    assert!(matches!(error, OciError::LinkToNothing { .. }), "{error}");
}

#[test]
fn devices_and_pipes_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        let error = refused(&[vec![Entry { kind, ..file("d", "") }]]);
        assert!(matches!(error, OciError::Kind { .. }), "{error}");
    }
}

#[test]
fn a_size_that_lies_is_named() {
    // In the archive's header.
    let mut short = layer(&[file("a", "four")]);
    short.truncate(512);
    let error = Place::new().unpack_image(&archive(&layout(&[short], gzip)), Limits::default()).unwrap_err();
    assert!(matches!(error, OciError::Damaged { .. }), "{error}");
    // In the manifest.
    let mut files = layout(&[layer(&[file("a", "four")])], <[u8]>::to_vec);
    files[1].1.push(0);
    let error = Place::new().unpack_image(&archive(&files), Limits::default()).unwrap_err();
    assert!(matches!(error, OciError::Size { .. } | OciError::Digest { .. }), "{error}");
    // In the archive around it.
    let mut cut = archive(&layout(&[layer(&[file("a", "four")])], gzip));
    cut.truncate(2048);
    assert!(Place::new().unpack_image(&cut, Limits::default()).is_err());
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused() {
    let mut files = layout(&[layer(&[file("a", "four")])], <[u8]>::to_vec);
    let at = files[1].1.windows(4).position(|bytes| bytes == b"four").unwrap();
    files[1].1[at] = b'F';
    let error = Place::new().unpack_image(&archive(&files), Limits::default()).unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }), "{error}");
}

#[test]
fn a_bomb_stops_at_the_named_maximum() {
    let limits = Limits { unpacked_bytes: 1 << 20, entries: 100, ..Limits::default() };
    let zeros = layer(&[Entry { content: vec![0; 8 << 20], ..file("a", "") }]);
    let error = Place::new().unpack_image(&archive(&layout(&[zeros], gzip)), limits).unwrap_err();
    assert!(error.to_string().contains("Limits::unpacked_bytes"), "{error}");
    // Behind the end of the archive, where no entry counts them.
    let mut behind = layer(&[file("a", "a")]);
    behind.resize(16 << 20, 0);
    let error = Place::new().unpack_image(&archive(&layout(&[behind], gzip)), limits).unwrap_err();
    assert!(error.to_string().contains("Limits::unpacked_bytes"), "{error}");
    let many: Vec<Entry> = (0..200).map(|n| folder(&format!("f{n}"))).collect();
    let error = Place::new().unpack_image(&archive(&layout(&[layer(&many)], gzip)), limits).unwrap_err();
    assert!(error.to_string().contains("Limits::entries"), "{error}");
    // A name that is longer than any memory.
    let mut long = layer(&[Entry { kind: EntryType::GNULongName, ..file("././@LongLink", "") }]);
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&long[..512]);
    header.set_size(1 << 40);
    header.set_cksum();
    long[..512].copy_from_slice(header.as_bytes());
    assert!(Place::new().unpack_image(&archive(&layout(&[long], gzip)), Limits::default()).is_err());
}

#[test]
fn folders_are_no_deeper_where_links_lead_than_where_paths_do() {
    let down = "f/".repeat(40);
    let mut entries = vec![folder(&down), symlink("l0", &down)];
    for step in 0..3 {
        entries.push(folder(&format!("l{step}/{down}")));
        entries.push(symlink(&format!("l{}", step + 1), &format!("l{step}/{down}")));
    }
    let error = refused(&[entries]);
    assert!(error.to_string().contains("folders in one another"), "{error}");
}

#[test]
fn a_layer_that_hides_the_same_again_and_again_stops_at_the_named_maximum() {
    let mut entries: Vec<Entry> = (0..300).map(|n| file(&format!("many/{n}"), "")).collect();
    entries.extend((0..300).map(|_| file("many/.wh..wh..opq", "")));
    let limits = Limits { entries: 10_000, ..Limits::default() };
    let error = Place::new().unpack_image(&archive(&layout(&[layer(&entries)], gzip)), limits).unwrap_err();
    assert!(error.to_string().contains("Limits::entries"), "{error}");
}

#[test]
fn an_image_for_another_machine_or_none_at_all_is_named() {
    let mut files = layout(&[], gzip);
    let text = String::from_utf8(files.pop().unwrap().1).unwrap();
    let other = text.replace("\"size\"", r#""platform":{"os":"linux","architecture":"s390x"},"size""#);
    files.push(("index.json".into(), other.into_bytes()));
    let error = Place::new().unpack_image(&archive(&files), Limits::default()).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    let error = Place::new().unpack_image(b"no archive", Limits::default()).unwrap_err();
    assert!(matches!(error, OciError::NoImage { .. }), "{error}");
    let error = Place::new().unpack_image(&archive(&[]), Limits::default()).unwrap_err();
    assert!(matches!(error, OciError::NoImage { .. }), "{error}");
}

#[test]
fn many_who_unpack_one_image_at_once_get_one_whole_copy() {
    let entries: Vec<Entry> = (0..200).map(|n| file(&format!("f{n}"), &n.to_string())).collect();
    let place = Place::new();
    let image = place.image(&archive(&layout(&[layer(&entries)], gzip)));
    let folder = place.folder.path().join("cache");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let cache = Cache::at(&folder).unwrap();
                let unpacked = cache.unpacked(&image, Limits::default()).unwrap();
                for n in 0..200 {
                    let text = fs::read_to_string(unpacked.rootfs.join(format!("f{n}"))).unwrap();
                    assert_eq!(text, n.to_string());
                }
            });
        }
    });
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Cache::at(folder.path()), Err(OciError::Cache { .. })));
}

#[test]
fn the_same_program_gives_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let order = Order {
        program: std::env::current_exe().unwrap(),
        args: vec!["--quiet".into()],
        include: vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")],
    };
    let make = |name: &str| {
        let output = folder.path().join(name);
        (build(&order, &output).unwrap(), fs::read(&output).unwrap())
    };
    let (one, other) = (make("one.tar"), make("other.tar"));
    assert!(one == other, "{} {}", one.0, other.0);
    let image = Image::open(&folder.path().join("one.tar"), Limits::default()).unwrap();
    assert_eq!(image.digest(), one.0);
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    image.unpack(&root).unwrap();
    assert!(root.join("app/Cargo.toml").is_file());
    assert!(root.join("lib/shard/libc.so.6").is_file() || cfg!(target_env = "musl"));
    let text = folder.path().join("text");
    fs::write(&text, "no program").unwrap();
    let error = build(&Order { program: text, ..order.clone() }, &folder.path().join("x.tar")).unwrap_err();
    assert!(error.to_string().contains("it is no program that Linux runs"), "{error}");
    assert!(!folder.path().join("x.tar").exists());
}

/// Names that meet each other, and lead out where that is possible at all.
fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "..",
        ".",
        "",
        "outside",
        "secret",
        ".wh.a",
        ".wh..wh..opq",
        ".wh..",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::XHeader,
        EntryType::GNULongName,
    ]);
    (kind, name(), name(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
        |(kind, path, target, content)| {
            let content = if matches!(kind, EntryType::Symlink | EntryType::Link | EntryType::Directory) {
                vec![]
            } else {
                content
            };
            Entry { kind, path, target, content, mode: 0o777 }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Entry by entry, so that one that is refused does not hide the others.
    #[test]
    fn whatever_a_layer_holds_nothing_is_written_outside(entries in prop::collection::vec(any_entry(), 0..12)) {
        let place = Place::new();
        let layers: Vec<Vec<Entry>> = entries.into_iter().map(|entry| vec![entry]).collect();
        let mut well = Vec::new();
        for entry in layers {
            well.push(entry);
            let again = Place::new();
            if again.unpack(&well).is_err() {
                well.pop();
            }
        }
        place.unpack(&well).unwrap();
    }
}
