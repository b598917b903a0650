//! A doubly linked list threaded through a table: no memory of its own, every step in constant time.
//!
//! Invariant: an item is in at most one list at a time; whoever owns the item knows which.

/// The index that stands for "none".
pub(super) const NONE: u32 = u32::MAX;

/// What an item needs to be in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    before: u32,
    after: u32,
}

impl Links {
    pub(super) const ALONE: Links = Links { before: NONE, after: NONE };
}

/// An item of a table that can be in a list.
pub(super) trait Linked {
    fn links(&self) -> &Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
    count: u32,
}

impl List {
    pub(super) const EMPTY: List = List { first: NONE, last: NONE, count: 0 };

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    pub(super) fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    pub(super) fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push_first<T: Linked>(&mut self, table: &mut [T], at: u32) {
        *table[at as usize].links_mut() = Links { before: NONE, after: self.first };
        match self.first {
            NONE => self.last = at,
            next => table[next as usize].links_mut().before = at,
        }
        self.first = at;
        self.count += 1;
    }

    pub(super) fn push_last<T: Linked>(&mut self, table: &mut [T], at: u32) {
        *table[at as usize].links_mut() = Links { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = at,
            last => table[last as usize].links_mut().after = at,
        }
        self.last = at;
        self.count += 1;
    }

    /// Puts `at` in front of the first item that `goes_behind` it, searching from the list's first.
    pub(super) fn insert<T: Linked>(&mut self, table: &mut [T], at: u32, goes_behind: impl Fn(&T) -> bool) {
        let Some(next) = self.iter(table).find(|&other| goes_behind(&table[other as usize])) else {
            return self.push_last(table, at);
        };
        let before = table[next as usize].links().before;
        if before == NONE {
            return self.push_first(table, at);
        }
        *table[at as usize].links_mut() = Links { before, after: next };
        table[before as usize].links_mut().after = at;
        table[next as usize].links_mut().before = at;
        self.count += 1;
    }

    pub(super) fn remove<T: Linked>(&mut self, table: &mut [T], at: u32) {
        let Links { before, after } = std::mem::replace(table[at as usize].links_mut(), Links::ALONE);
        match before {
            NONE => self.first = after,
            before => table[before as usize].links_mut().after = after,
        }
        match after {
            NONE => self.last = before,
            after => table[after as usize].links_mut().before = before,
        }
        self.count -= 1;
    }

    pub(super) fn iter<'a, T: Linked>(&self, table: &'a [T]) -> impl Iterator<Item = u32> + use<'a, T> {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let now = (at != NONE).then_some(at)?;
            at = table[now as usize].links().after;
            Some(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item(Links, u32);

    impl Linked for Item {
        fn links(&self) -> &Links {
            &self.0
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    #[test]
    fn a_list_keeps_the_order_in_which_it_was_built() {
        let mut table: Vec<Item> = (0..6).map(|key| Item(Links::ALONE, key)).collect();
        let mut list = List::EMPTY;
        list.push_last(&mut table, 2);
        list.push_last(&mut table, 3);
        list.push_first(&mut table, 1);
        list.remove(&mut table, 3);
        for at in [5, 3, 0] {
            list.insert(&mut table, at, |other| other.1 > at);
        }
        assert_eq!(list.iter(&table).collect::<Vec<_>>(), [0, 1, 2, 3, 5]);
        for at in [1, 5, 2, 0, 3] {
            list.remove(&mut table, at);
        }
        assert!(list.is_empty() && list.first().is_none());
    }
}
