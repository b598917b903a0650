//! Who calls whom: circles, and the components that a composition reaches.
//!
//! The embedder is an end, not a shard: players' input comes from it and pictures go back to it, and that is no
//! circle. So it neither closes a circle nor leads a composition any further.

use super::at::{At, Named};
use super::error::{Problem, Span, did_you_mean};
use super::limits::{check_name, whole};
use super::raw;
use crate::application::{Application, COMPOSITIONS_MAX, Composition, IDLE_TIMEOUT_S_MAX};
use shard_runtime::id::ComponentId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Each pair of caller and called once, with the first destination that says so.
#[derive(Default)]
pub(super) struct Calls(BTreeMap<(ComponentId, ComponentId), Span>);

impl Calls {
    pub(super) fn add(&mut self, from: ComponentId, to: ComponentId, span: &Span) {
        self.0.entry((from, to)).or_insert_with(|| span.clone());
    }

    fn of(&self, from: ComponentId) -> impl DoubleEndedIterator<Item = (ComponentId, &Span)> {
        let all = (from, ComponentId(0))..=(from, ComponentId(u16::MAX));
        self.0.range(all).map(|((_, to), span)| (*to, span))
    }

    /// Finds the first circle, if there is one, and names it.
    pub(super) fn forbid_circles(&self, application: &Application) -> Result<(), Problem> {
        let mut walk =
            Walk { calls: self, embedder: application.embedder, path: Vec::new(), left: HashSet::new() };
        for id in ids(application) {
            let Err((circle, span)) = walk.follow(id) else { continue };
            let names: Vec<_> =
                circle.iter().map(|id| format!("`{}`", application.component(*id).name)).collect();
            let what = format!("the calls go in a circle: {}", names.join(" → "));
            let cure = "take one of these calls out, or allow it with `cycles = true` in `[application]`";
            return Err(Problem::at(span, what, cure));
        }
        Ok(())
    }

    /// Everything that `entries` reach, themselves included. Callers come before those whom they call; where that
    /// leaves a choice, the manifest's order decides.
    fn reach(&self, entries: &[ComponentId], embedder: Option<ComponentId>) -> Vec<ComponentId> {
        let mut seen: HashSet<ComponentId> = embedder.into_iter().collect();
        let mut reached = Vec::new();
        // A component is noted after all that it calls, so the reverse has callers first.
        for entry in entries.iter().rev() {
            self.note_after_called(*entry, &mut seen, &mut reached);
        }
        reached.reverse();
        self.in_manifest_order(&reached)
    }

    /// Components that have callers first, in the order nearest to the manifest's that still has.
    fn in_manifest_order(&self, callers_first: &[ComponentId]) -> Vec<ComponentId> {
        let place: HashMap<_, _> = callers_first.iter().zip(0..).map(|(id, place)| (*id, place)).collect();
        // A call that leads back closes a circle, and one to the embedder leads out: neither orders anything.
        let called_after = |from: ComponentId| {
            let place = &place;
            self.of(from).map(|(to, _)| to).filter(move |to| place.get(to) > place.get(&from))
        };
        let mut callers_left: HashMap<ComponentId, usize> = HashMap::new();
        for to in callers_first.iter().flat_map(|from| called_after(*from)) {
            *callers_left.entry(to).or_default() += 1;
        }
        let uncalled = callers_first.iter().copied().filter(|id| !callers_left.contains_key(id));
        let mut ready: BTreeSet<ComponentId> = uncalled.collect();
        let mut ordered = Vec::new();
        while let Some(next) = ready.pop_first() {
            ordered.push(next);
            for to in called_after(next) {
                let left = callers_left.entry(to).or_default();
                *left -= 1;
                if *left == 0 {
                    ready.insert(to);
                }
            }
        }
        ordered
    }

    /// The depth is bounded by the number of components.
    fn note_after_called(
        &self,
        id: ComponentId,
        seen: &mut HashSet<ComponentId>,
        noted: &mut Vec<ComponentId>,
    ) {
        if seen.insert(id) {
            self.of(id).rev().for_each(|(to, _)| self.note_after_called(to, seen, noted));
            noted.push(id);
        }
    }
}

/// A walk along the calls, depth first.
struct Walk<'a> {
    calls: &'a Calls,
    embedder: Option<ComponentId>,
    /// The way to where the walk is.
    path: Vec<ComponentId>,
    /// Those behind which there is no circle.
    left: HashSet<ComponentId>,
}

impl<'a> Walk<'a> {
    /// Fails with the circle and the call that closes it. The depth is bounded by the number of components.
    fn follow(&mut self, id: ComponentId) -> Result<(), (Vec<ComponentId>, &'a Span)> {
        if self.left.contains(&id) || Some(id) == self.embedder {
            return Ok(());
        }
        self.path.push(id);
        for (to, span) in self.calls.of(id) {
            if let Some(start) = self.path.iter().position(|on_path| *on_path == to) {
                let circle = self.path[start..].iter().copied().chain([to]).collect();
                return Err((circle, span));
            }
            self.follow(to)?;
        }
        self.path.pop();
        self.left.insert(id);
        Ok(())
    }
}

fn ids(application: &Application) -> impl Iterator<Item = ComponentId> {
    let components = (0..application.components.len()).map(|at| ComponentId(at as u16));
    components.filter(|id| Some(*id) != application.embedder)
}

/// The compositions as declared, or the one that there is without any.
pub(super) fn compositions(
    raw: &Named<raw::Composition>,
    application: &Application,
    calls: &Calls,
) -> Result<Vec<Composition>, Problem> {
    let Some((last, _)) = raw.0.last() else {
        let components = calls.reach(&default_entries(application, calls), application.embedder);
        return Ok(vec![Composition { name: "default".to_owned(), components, idle_timeout_ms: None }]);
    };
    if raw.0.len() > COMPOSITIONS_MAX {
        let what = format!("there are {} compositions", raw.0.len());
        return Err(Problem::at(&last.span, what, format!("use at most {COMPOSITIONS_MAX}")));
    }
    let composition = |(name, raw): &(At<String>, raw::Composition)| {
        check_name(name, "composition")?;
        let entries = match &raw.entry {
            Some(entry) => entries(&name.value, entry, application)?,
            None => default_entries(application, calls),
        };
        let components = calls.reach(&entries, application.embedder);
        let idle = raw.idle_timeout_s.as_ref();
        let idle = idle.map(|s| whole(s, "idle_timeout_s", 1, IDLE_TIMEOUT_S_MAX)).transpose()?;
        let idle_timeout_ms = idle.map(|s| s * 1000);
        Ok(Composition { name: name.value.clone(), components, idle_timeout_ms })
    };
    raw.0.iter().map(composition).collect()
}

/// Those whom the embedder calls; without such, those whom nobody calls; without such too, all.
fn default_entries(application: &Application, calls: &Calls) -> Vec<ComponentId> {
    let by_embedder: Vec<_> =
        application.embedder.iter().flat_map(|id| calls.of(*id)).map(|(to, _)| to).collect();
    if !by_embedder.is_empty() {
        return by_embedder;
    }
    let called: HashSet<_> = calls.0.keys().map(|(_, to)| *to).collect();
    let uncalled: Vec<_> = ids(application).filter(|id| !called.contains(id)).collect();
    if uncalled.is_empty() { ids(application).collect() } else { uncalled }
}

fn entries(
    composition: &str,
    raw: &At<Vec<At<String>>>,
    application: &Application,
) -> Result<Vec<ComponentId>, Problem> {
    let mut entries = Vec::new();
    for name in &raw.value {
        let id = entry(composition, name, application)?;
        if entries.contains(&id) {
            let what = format!("composition `{composition}` names `{}` twice", name.value);
            return Err(Problem::at(&name.span, what, "name each entry once"));
        }
        entries.push(id);
    }
    if entries.is_empty() {
        let what = format!("composition `{composition}` has no components: its `entry` is empty");
        return Err(Problem::at(&raw.span, what, "name a component, or leave `entry` out"));
    }
    Ok(entries)
}

fn entry(composition: &str, name: &At<String>, application: &Application) -> Result<ComponentId, Problem> {
    match application.find(&name.value) {
        Some(id) if Some(id) == application.embedder => {
            let what =
                format!("composition `{composition}` names the embedder, which is part of every session");
            Err(Problem::at(&name.span, what, "leave it out"))
        }
        Some(id) => Ok(id),
        None => {
            let what = format!(
                "composition `{composition}` begins at `{}`, but there is no such component",
                name.value
            );
            let known = ids(application).map(|id| application.component(id).name.as_str());
            Err(Problem::at(&name.span, what, did_you_mean(&name.value, "component", known)))
        }
    }
}
