//! A policy's memory as bytes, so that history survives a restart.
//!
//! Layout: eight bytes that name it, a version, then the policy in postcard. Invariant: what is restored goes on exactly as
//! what was saved; bytes that this version did not write, or that are not whole, are an error and never a panic later.

use super::{BIN_S_MAX, BIN_S_MIN, COLD_PRICE_MAX, COLD_PRICE_MIN, Choice, KINDS_MAX, Model, Policy};

/// The version of what [`Policy::save`] writes.
pub const STATE_VERSION: u32 = 3;
const NAME: &[u8; 8] = b"poolplcy";
/// More bins than pass in the life of anything: a count beyond it was not counted.
pub(super) const BINS_MAX: u64 = 1 << 48;
const HEAD_BYTES: usize = NAME.len() + size_of::<u32>();

/// Why a saved policy can't be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It was never one.
    #[error("this is no saved pool policy; start without history, or give what `save` wrote")]
    NotAPolicy,
    /// Another version wrote it.
    #[error(
        "the saved pool policy is of version {found}, this program reads {STATE_VERSION}; start without history"
    )]
    Version {
        /// The version that wrote it.
        found: u32,
    },
    /// It is not whole, or was changed.
    #[error("the saved pool policy is damaged ({what}); start without history, or take an older copy")]
    Damaged {
        /// What does not fit.
        what: String,
    },
}

impl Policy {
    /// Everything that it remembers.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = NAME.to_vec();
        bytes.extend(STATE_VERSION.to_le_bytes());
        postcard::to_extend(self, bytes)
            .expect("memory takes any bytes, and every part of a policy has its form")
    }

    /// What [`Policy::save`] gave.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(RestoreError::NotAPolicy)?;
        let (name, version) = head.split_at(NAME.len());
        if name != NAME {
            return Err(RestoreError::NotAPolicy);
        }
        let found = u32::from_le_bytes(version.try_into().expect("the head ends with four bytes"));
        if found != STATE_VERSION {
            return Err(RestoreError::Version { found });
        }
        let damaged = |what: &str| RestoreError::Damaged { what: what.into() };
        let (policy, rest): (Self, _) =
            postcard::take_from_bytes(body).map_err(|error| damaged(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(damaged("there are bytes after its end"));
        }
        if policy.fits() { Ok(policy) } else { Err(damaged("its parts do not belong together")) }
    }

    /// Whether the parts can have been written by this version.
    fn fits(&self) -> bool {
        let kinds = self.wanted.len();
        let model = match (&self.model, self.choice) {
            (Model::Nothing, Choice::FixedBuffer(_) | Choice::Headroom(_) | Choice::Reactive) => true,
            (Model::KeepAlive(windows), Choice::KeepAlive(_)) => windows.len() == kinds,
            (Model::Hybrid(hybrids), Choice::Hybrid) => {
                hybrids.len() == kinds && hybrids.iter().all(|hybrid| hybrid.fits(self.bins))
            }
            (Model::Expected(model), Choice::ExpectedCost) => {
                model.len() == kinds && model.fits(self.bin_s, self.bins)
            }
            _ => false,
        };
        model
            && self.bins <= BINS_MAX
            && kinds <= KINDS_MAX
            && self.cold_prices.len() == kinds
            && self.cold_prices.iter().all(|price| (COLD_PRICE_MIN..=COLD_PRICE_MAX).contains(price))
            && (BIN_S_MIN..=BIN_S_MAX).contains(&self.bin_s)
    }
}
