//! Keeps the interrupts of devices off the cores that shards have for themselves, where the host file asks for it
//! (`keep_interrupts_off`): it changes what belongs to the whole host.
//!
//! What was set before is written down before anything is changed, in a folder that is locked as long as its composer
//! lives. So one composer at a time does this on a host, and whoever gets the lock knows that what is written there is
//! nobody's any more.
//!
//! Invariant: in the end everything is set as it was before: by the composer, or, if that was killed, by the next one.

use crate::folders::lock_folder;
use crate::resources::limits::{Tried, ranges};
use rustix::io::Errno;
use shard_runtime::topology::parse_list;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The kernel's interrupts.
const IRQS: &str = "/proc/irq";
/// What was set before. It goes when the host is booted anew, and so does what it tells.
const FOLDER: &str = "/run/shard-composer";
const FILE: &str = "interrupts";
/// Where interrupts go that nobody has asked for yet.
const DEFAULT: &str = "default_smp_affinity";

/// See the head of this file.
pub(crate) struct Interrupts {
    irqs: PathBuf,
    folder: PathBuf,
    _lock: OwnedFd,
    was: Was,
    off: BTreeSet<u32>,
    told: bool,
}

/// Where interrupts went before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Was {
    /// A mask, as the kernel writes it.
    default: String,
    /// Lists of processors, by interrupt.
    lists: BTreeMap<u32, String>,
}

impl Interrupts {
    /// Sets back what a composer left that was killed. If this one is to keep interrupts off, it is returned.
    pub(crate) fn start(wanted: bool) -> Option<Self> {
        Self::start_at(Path::new(IRQS), Path::new(FOLDER), wanted)
    }

    fn start_at(irqs: &Path, folder: &Path, wanted: bool) -> Option<Self> {
        if !wanted && !folder.join(FILE).exists() {
            return None;
        }
        let lock = match lock(folder) {
            Ok(lock) => lock,
            Err(error) => {
                if wanted {
                    tell(folder, &error);
                }
                return None;
            }
        };
        let was = fs::read_to_string(folder.join(FILE)).map(|text| Was::parse(&text)).unwrap_or_default();
        let (irqs, folder) = (irqs.to_path_buf(), folder.to_path_buf());
        let mut this = Self { irqs, folder, _lock: lock, was, off: BTreeSet::new(), told: false };
        if !this.was.lists.is_empty() {
            tracing::warn!("a composer that is gone has left interrupts off its cores; they are set back");
            this.set_back();
        }
        wanted.then_some(this)
    }

    /// From now on interrupts are kept off these processors and no others.
    pub(crate) fn keep_off(&mut self, cores: BTreeSet<u32>) {
        if cores == self.off {
            return;
        }
        if cores.is_empty() {
            return self.set_back();
        }
        let mut was = self.was.clone();
        self.look(&mut was);
        if was != self.was {
            if let Err(error) = write_whole(&self.folder, &was.text()) {
                return tell(&self.folder, &error);
            }
            self.was = was;
        }
        self.off = cores;
        let stay = self.set(|was| narrowed(was, &self.off), &narrowed_mask(&self.was.default, &self.off));
        let (cores, why) = (ranges(&self.off.iter().copied().collect::<Vec<_>>()), stay.values().next());
        match why {
            Some(error) if !std::mem::replace(&mut self.told, true) => tracing::warn!(
                cores,
                count = stay.len(),
                %error,
                mend = mend(error, &cores),
                "interrupts can't be kept off the cores of shards"
            ),
            Some(_) => {}
            None => tracing::info!(cores, "interrupts are kept off"),
        }
    }

    fn set_back(&mut self) {
        let failed = self.set(str::to_owned, &self.was.default);
        if let Some(error) = failed.values().next() {
            tracing::warn!(count = failed.len(), %error, "interrupts can't be set back to where they went before");
        }
        self.was = Was::default();
        self.off.clear();
        if let Err(error) = fs::remove_file(self.folder.join(FILE))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.folder.display(), %error, "it can't be forgotten where interrupts went");
        }
    }

    /// Notes where the interrupts go that are not known yet.
    fn look(&self, was: &mut Was) {
        if was.default.is_empty() {
            was.default = text(&self.irqs.join(DEFAULT)).unwrap_or_default();
        }
        for entry in fs::read_dir(&self.irqs).into_iter().flatten().flatten() {
            let Some(irq) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(list) = text(&self.list_of(irq)).filter(|_| !was.lists.contains_key(&irq)) else {
                continue;
            };
            // One that came meanwhile is where the narrowed default has put it.
            let came = !self.off.is_empty() && list == ranges(&bits(&narrowed_mask(&was.default, &self.off)));
            was.lists.insert(irq, if came { ranges(&bits(&was.default)) } else { list });
        }
    }

    fn list_of(&self, irq: u32) -> PathBuf {
        self.irqs.join(irq.to_string()).join("smp_affinity_list")
    }

    /// Sets each interrupt to what `to` makes of where it was, and the default. Returns those that refuse.
    fn set(&self, to: impl Fn(&str) -> String, default: &str) -> BTreeMap<String, io::Error> {
        let files = self.was.lists.iter().map(|(irq, was)| (self.list_of(*irq), to(was)));
        let files = files.chain([(self.irqs.join(DEFAULT), default.to_owned())]);
        let mut refused = BTreeMap::new();
        for (file, wanted) in files {
            // An interrupt that is gone has no file.
            if text(&file).is_none_or(|now| now == wanted) {
                continue;
            }
            if let Err(error) = fs::write(&file, &wanted) {
                refused.insert(file.display().to_string(), error);
            }
        }
        refused
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if !self.was.lists.is_empty() {
            self.set_back();
        }
    }
}

impl Was {
    fn text(&self) -> String {
        let lines = self.lists.iter().map(|(irq, list)| format!("{irq} {list}\n"));
        std::iter::once(format!("default {}\n", self.default)).chain(lines).collect()
    }

    fn parse(text: &str) -> Self {
        let mut was = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match name.parse() {
                Ok(irq) => drop(was.lists.insert(irq, value.to_owned())),
                Err(_) => was.default = value.to_owned(),
            }
        }
        was
    }
}

/// Whether this process may set where interrupts go: it sets the default to what it is.
pub(crate) fn tried() -> Tried {
    let (what, file) = ("IRQ affinity", Path::new(IRQS).join(DEFAULT));
    let written = fs::read_to_string(&file).and_then(|now| fs::write(&file, now.trim()).map(|()| now));
    match written {
        Ok(now) => {
            let evidence = format!("{}: {}, written as it is", file.display(), now.trim());
            Tried { what, evidence, mend: None }
        }
        Err(error) => {
            Tried { what, evidence: format!("{}: {error}", file.display()), mend: Some(mend(&error, "LIST")) }
        }
    }
}

fn tell(path: &Path, error: &io::Error) {
    let mend = match error.kind() {
        io::ErrorKind::WouldBlock => {
            "another composer does it on this host: let one run, or take the key out of a host file".into()
        }
        _ => mend(error, "LIST"),
    };
    tracing::warn!(path = %path.display(), %error, mend, "`keep_interrupts_off` is left out");
}

fn mend(error: &io::Error, cores: &str) -> String {
    match Errno::from_io_error(error) {
        // The kernel spreads a device's queues by itself.
        Some(Errno::IO | Errno::INVAL | Errno::NOSPC) => {
            format!("boot with isolcpus=managed_irq,domain,{cores}: the kernel itself places these")
        }
        _ => "run the composer as root, on the host and not in a container".into(),
    }
}

/// A list of processors without these; where that leaves none, all others.
fn narrowed(was: &str, off: &BTreeSet<u32>) -> String {
    let without = |list: Vec<u32>| list.into_iter().filter(|id| !off.contains(id)).collect::<Vec<_>>();
    let left = without(parse_list(was).into_iter().map(|id| id as u32).collect());
    if !left.is_empty() {
        return ranges(&left);
    }
    let online = text(Path::new("/sys/devices/system/cpu/online")).unwrap_or_default();
    ranges(&without(parse_list(&online).into_iter().map(|id| id as u32).collect()))
}

/// A mask without these; where that leaves none, as it is.
fn narrowed_mask(was: &str, off: &BTreeSet<u32>) -> String {
    let left: Vec<u32> = bits(was).into_iter().filter(|id| !off.contains(id)).collect();
    let words = was.split(',').count();
    if left.is_empty() {
        return was.to_owned();
    }
    let word = |at: usize| {
        let inside = left.iter().filter(|id| **id as usize / 32 == at);
        inside.fold(0_u32, |word, id| word | 1 << (id % 32))
    };
    let texts: Vec<String> = (0..words).rev().map(|at| format!("{:08x}", word(at))).collect();
    // As the kernel writes it: the first word is as wide as it was.
    let width = was.split(',').next().map_or(0, str::len);
    let text = texts.join(",");
    text[8_usize.saturating_sub(width)..].to_owned()
}

/// The processors of a mask: words of 32 bits, the highest first.
fn bits(mask: &str) -> Vec<u32> {
    let words = mask.split(',').rev().map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
    let bits = words
        .zip(0_u32..)
        .flat_map(|(word, at)| (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 32 + bit));
    bits.collect()
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

fn lock(folder: &Path) -> io::Result<OwnedFd> {
    // For its owner alone: whoever could open it could hold the lock for ever.
    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    lock_folder(folder)
}

/// Writes a file so that whoever is killed meanwhile leaves the old one or the new one.
fn write_whole(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join("interrupts.new");
    fs::write(&new, text)?;
    fs::rename(new, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        for (irq, list) in [("4", "0-3"), ("24", "3"), ("25", "0-1")] {
            fs::create_dir_all(tree.path().join("irq").join(irq)).unwrap();
            fs::write(tree.path().join("irq").join(irq).join("smp_affinity_list"), format!("{list}\n"))
                .unwrap();
        }
        fs::write(tree.path().join("irq").join(DEFAULT), "f\n").unwrap();
        tree
    }

    fn start(tree: &tempfile::TempDir, wanted: bool) -> Option<Interrupts> {
        Interrupts::start_at(&tree.path().join("irq"), &tree.path().join("run"), wanted)
    }

    fn now(tree: &tempfile::TempDir) -> [String; 4] {
        let files = ["4/smp_affinity_list", "24/smp_affinity_list", "25/smp_affinity_list", DEFAULT];
        files.map(|file| text(&tree.path().join("irq").join(file)).unwrap())
    }

    #[test]
    fn interrupts_are_kept_off_and_come_back_as_they_were() {
        let tree = tree();
        let before = now(&tree);
        let mut interrupts = start(&tree, true).unwrap();
        interrupts.keep_off([2].into());
        assert_eq!(now(&tree), ["0-1,3", "3", "0-1", "b"]);
        interrupts.keep_off([0, 2].into());
        assert_eq!(now(&tree), ["1,3", "3", "1", "a"]);
        interrupts.keep_off(BTreeSet::new());
        assert_eq!(now(&tree), before);
        interrupts.keep_off([1].into());
        assert!(start(&tree, true).is_none(), "two composers at once");
        drop(interrupts);
        assert_eq!(now(&tree), before);
    }

    #[test]
    fn the_next_composer_sets_back_what_a_killed_one_has_left() {
        let tree = tree();
        let before = now(&tree);
        let mut killed = start(&tree, true).unwrap();
        killed.keep_off([0, 2].into());
        assert_ne!(now(&tree), before);
        // The kernel closes the descriptor; nothing else of it runs.
        let Interrupts { was, _lock, .. } = &killed;
        assert_eq!(Was::parse(&was.text()), *was);
        flock(_lock, FlockOperation::Unlock).unwrap();
        std::mem::forget(killed);
        assert!(start(&tree, false).is_none());
        assert_eq!(now(&tree), before);
        assert!(!tree.path().join("run").join(FILE).exists());
    }

    #[test]
    fn an_interrupt_that_came_meanwhile_goes_where_the_default_says() {
        let tree = tree();
        let mut interrupts = start(&tree, true).unwrap();
        interrupts.keep_off([3].into());
        let file = tree.path().join("irq/30/smp_affinity_list");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "0-2\n").unwrap();
        interrupts.keep_off([2, 3].into());
        assert_eq!(text(&file).as_deref(), Some("0-1"));
        drop(interrupts);
        assert_eq!(text(&file).as_deref(), Some("0-3"));
    }

    #[test]
    fn masks_of_many_processors_keep_their_form() {
        assert_eq!(narrowed_mask("ff,ffffffff", &[0, 33].into()), "fd,fffffffe");
        assert_eq!(narrowed_mask("3", &[0, 1].into()), "3", "somebody has to take them");
        assert_eq!(bits("1,00000003"), [0, 1, 32]);
    }
}
