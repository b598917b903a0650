//! Who is who: passwords, tickets, and patience with those who guess.
//!
//! Invariant: the answer to a wrong name and to a wrong password is the same and takes the same work, so a login tells
//! nothing about which accounts exist.

use crate::messages::{Login, NAME_BYTES_MAX, PlayerId, Ticket, Verdict};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use blake2::{
    Blake2s256, Blake2sMac256, Digest,
    digest::{KeyInit, Mac},
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// The longest password, in bytes: hashing a longer one is a way to keep the shard busy.
pub const PASSWORD_BYTES_MAX: usize = 128;
/// How many names with failed logins are remembered. Beyond it the one that failed longest ago is forgotten.
pub const FAILURES_MAX: usize = 4_096;
/// The names of the accounts in [`Auth::demo`].
pub const DEMO_NAMES: [&str; 24] = [
    "ada",
    "grace",
    "alan",
    "edsger",
    "barbara",
    "donald",
    "leslie",
    "tony",
    "margaret",
    "dennis",
    "radia",
    "ken",
    "hedy",
    "sofia",
    "emmy",
    "kurt",
    "katherine",
    "john",
    "sophie",
    "blaise",
    "annie",
    "niklaus",
    "frances",
    "konrad",
];

/// What the manifest's `config` table says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Memory that one password hash takes, in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// How many failures in a row a name may have before it has to wait.
    pub failures_free: u32,
    /// The first wait; each further failure doubles it, six times at most.
    pub wait_ms: u64,
    /// How long a ticket is good for.
    pub ticket_ms: u64,
    /// What the tickets' key is made of: the same for all components, and secret in production.
    pub secret: String,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let secret = "demo secret: replace me".into();
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
            failures_free: 3,
            wait_ms: 1_000,
            ticket_ms: 3_600_000,
            secret,
        }
    }
}

/// Why auth can't do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Argon2 refuses the parameters.
    #[error("argon2 refuses memory_kib = {memory_kib}, passes = {passes}: {cause}; take at least 8 and 1")]
    Parameters {
        /// As configured.
        memory_kib: u32,
        /// As configured.
        passes: u32,
        /// What Argon2 says.
        cause: String,
    },
    /// An account can't be added.
    #[error("account {name:?}: {cause}")]
    Account {
        /// Its name.
        name: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
}

/// Why a ticket is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The signature does not fit: forged, changed, or signed with another key.
    #[error("the ticket of player {} is not signed by this application's auth; log in again", .0.0)]
    Forged(PlayerId),
    /// Its time is over.
    #[error("the ticket of player {} has expired; log in again", .0.0)]
    Expired(PlayerId),
}

/// The key that signs and checks tickets.
#[derive(Clone)]
pub struct TicketKey([u8; 32]);

impl TicketKey {
    /// The key made of `secret`.
    pub fn new(secret: &str) -> Self {
        Self(Blake2s256::digest(secret).into())
    }

    /// A ticket for `player`, good until `expires_ms`.
    pub fn sign(&self, player: PlayerId, expires_ms: u64) -> Ticket {
        Ticket { player, expires_ms, mac: self.mac(player, expires_ms).finalize().into_bytes().into() }
    }

    /// Whose ticket this is.
    ///
    /// # Errors
    /// If this key did not sign it, or its time is over at `now_ms`.
    pub fn check(&self, ticket: &Ticket, now_ms: u64) -> Result<PlayerId, TicketError> {
        // `verify` compares in constant time.
        let signed = self.mac(ticket.player, ticket.expires_ms).verify(&ticket.mac.into());
        signed.map_err(|_| TicketError::Forged(ticket.player))?;
        if ticket.expires_ms <= now_ms { Err(TicketError::Expired(ticket.player)) } else { Ok(ticket.player) }
    }

    fn mac(&self, player: PlayerId, expires_ms: u64) -> Blake2sMac256 {
        let mac = Blake2sMac256::new(&self.0.into());
        mac.chain_update(player.0.to_le_bytes()).chain_update(expires_ms.to_le_bytes())
    }
}

struct User {
    player: PlayerId,
    /// The hash as a PHC string: algorithm, parameters, salt and hash.
    phc: String,
}

#[derive(Default)]
struct Failures {
    count: u32,
    last_ms: u64,
    blocked_until_ms: u64,
}

/// The accounts of one auth shard.
pub struct Auth {
    config: AuthConfig,
    argon2: Argon2<'static>,
    key: TicketKey,
    users: HashMap<String, User>,
    failures: BTreeMap<String, Failures>,
    /// Stands in for the hash of a user who does not exist.
    decoy_phc: String,
}

impl Auth {
    /// No accounts yet.
    ///
    /// # Errors
    /// If Argon2 refuses the parameters.
    pub fn new(config: AuthConfig) -> Result<Self, AuthError> {
        let AuthConfig { memory_kib, passes, .. } = config;
        let params = Params::new(memory_kib, passes, 1, None);
        let params =
            params.map_err(|e| AuthError::Parameters { memory_kib, passes, cause: e.to_string() })?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let key = TicketKey::new(&config.secret);
        let (users, failures) = Default::default();
        let mut auth = Self { config, argon2, key, users, failures, decoy_phc: String::new() };
        auth.decoy_phc = auth.hash("", "nobody has this password")?;
        Ok(auth)
    }

    /// An account for each of [`DEMO_NAMES`], players 1 to 24, whose password is `NAME-plays`.
    ///
    /// # Errors
    /// If Argon2 refuses the parameters.
    pub fn demo(config: AuthConfig) -> Result<Self, AuthError> {
        let mut auth = Self::new(config)?;
        for (player, name) in (1..).zip(DEMO_NAMES) {
            auth.add(name, &format!("{name}-plays"), PlayerId(player))?;
        }
        Ok(auth)
    }

    /// The key of this application's tickets.
    pub fn key(&self) -> &TicketKey {
        &self.key
    }

    /// Adds the account of `player`.
    ///
    /// # Errors
    /// If the name is taken, or the name or the password is empty or too long.
    pub fn add(&mut self, name: &str, password: &str, player: PlayerId) -> Result<(), AuthError> {
        let refuse = |cause: &str| Err(AuthError::Account { name: name.into(), cause: cause.into() });
        if !fits(name, password) {
            return refuse("a name has 1 to 16 bytes, a password 1 to 128");
        }
        if self.users.contains_key(name) {
            return refuse("the name is taken; take another");
        }
        let phc = self.hash(name, password)?;
        self.users.insert(name.into(), User { player, phc });
        Ok(())
    }

    /// Answers a login at `now_ms`.
    pub fn login(&mut self, login: &Login, now_ms: u64) -> Verdict {
        if !fits(&login.name, &login.password) {
            return Verdict::Denied;
        }
        let blocked_until_ms = self.failures.get(&login.name).map_or(0, |f| f.blocked_until_ms);
        if now_ms < blocked_until_ms {
            return Verdict::Throttled { retry_ms: blocked_until_ms - now_ms };
        }
        // The decoy makes an unknown name as slow as a known one.
        let user = self.users.get(&login.name);
        let phc = user.map_or(&self.decoy_phc, |user| &user.phc);
        let right = PasswordHash::new(phc)
            .is_ok_and(|hash| self.argon2.verify_password(login.password.as_bytes(), &hash).is_ok());
        match user {
            Some(user) if right => {
                self.failures.remove(&login.name);
                Verdict::Ok(self.key.sign(user.player, now_ms.saturating_add(self.config.ticket_ms)))
            }
            _ => {
                self.note_failure(&login.name, now_ms);
                Verdict::Denied
            }
        }
    }

    fn note_failure(&mut self, name: &str, now_ms: u64) {
        if self.failures.len() >= FAILURES_MAX && !self.failures.contains_key(name) {
            let oldest = self.failures.iter().min_by_key(|(_, f)| f.last_ms).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.failures.remove(&name));
        }
        let failures = self.failures.entry(name.into()).or_default();
        failures.count += 1;
        failures.last_ms = now_ms;
        if let Some(extra) = failures.count.checked_sub(self.config.failures_free.max(1)) {
            failures.blocked_until_ms = now_ms.saturating_add(self.config.wait_ms << extra.min(6));
        }
    }

    /// A salt has to be different for each account, not secret: one made of the name is, and keeps a run repeatable.
    fn hash(&self, name: &str, password: &str) -> Result<String, AuthError> {
        let salt =
            Blake2s256::new().chain_update(self.config.secret.as_bytes()).chain_update(name).finalize();
        let hash = self.argon2.hash_password_with_salt(password.as_bytes(), &salt[..16]);
        let hash = hash.map_err(|e| AuthError::Account { name: name.into(), cause: e.to_string() })?;
        Ok(PasswordHash::to_string(&hash))
    }
}

fn fits(name: &str, password: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && (1..=PASSWORD_BYTES_MAX).contains(&password.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn auth(memory_kib: u32) -> Auth {
        Auth::demo(AuthConfig { memory_kib, passes: 1, ..AuthConfig::default() }).unwrap()
    }

    fn login(name: &str, password: &str) -> Login {
        Login { name: name.into(), password: password.into() }
    }

    #[test]
    fn the_right_password_gets_a_ticket_that_others_can_check() {
        let mut auth = auth(8);
        let Verdict::Ok(ticket) = auth.login(&login("grace", "grace-plays"), 5) else { panic!("denied") };
        assert_eq!(TicketKey::new(&AuthConfig::default().secret).check(&ticket, 6), Ok(PlayerId(2)));
        assert_eq!(auth.key().check(&ticket, 5 + 3_600_000), Err(TicketError::Expired(PlayerId(2))));
        assert!(auth.users["grace"].phc.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
    }

    #[test]
    fn a_changed_ticket_is_forged() {
        let key = TicketKey::new("key");
        let ticket = key.sign(PlayerId(1), 100);
        let mut mac = ticket.mac;
        mac[31] ^= 1;
        let changed = [
            Ticket { player: PlayerId(2), ..ticket },
            Ticket { expires_ms: 101, ..ticket },
            Ticket { mac, ..ticket },
            TicketKey::new("other").sign(PlayerId(1), 100),
        ];
        for ticket in changed {
            assert_eq!(key.check(&ticket, 0), Err(TicketError::Forged(ticket.player)));
        }
    }

    #[test]
    fn a_wrong_name_and_a_wrong_password_look_and_last_the_same() {
        let mut auth = auth(2_048);
        auth.config.failures_free = u32::MAX;
        let mut fastest_ns = |name: &str| {
            let mut once = |_| {
                let start = Instant::now();
                assert_eq!(auth.login(&login(name, "guess"), 0), Verdict::Denied);
                start.elapsed().as_nanos()
            };
            (0..7).map(&mut once).min().unwrap()
        };
        let (known_ns, unknown_ns) = (fastest_ns("ada"), fastest_ns("nobody"));
        assert!(unknown_ns * 2 > known_ns && known_ns * 2 > unknown_ns, "{known_ns} ns and {unknown_ns} ns");
    }

    #[test]
    fn whoever_guesses_has_to_wait_and_waits_longer_each_time() {
        for name in ["ada", "nobody"] {
            let mut auth = auth(8);
            for _ in 0..3 {
                assert_eq!(auth.login(&login(name, "guess"), 0), Verdict::Denied);
            }
            assert_eq!(auth.login(&login(name, "ada-plays"), 1), Verdict::Throttled { retry_ms: 999 });
            assert_eq!(auth.login(&login(name, "guess"), 1_000), Verdict::Denied);
            assert_eq!(auth.login(&login(name, "guess"), 1_000), Verdict::Throttled { retry_ms: 2_000 });
            assert!(matches!(auth.login(&login("grace", "grace-plays"), 1_000), Verdict::Ok(_)));
        }
        let mut auth = auth(8);
        auth.login(&login("ada", "guess"), 0);
        assert!(matches!(auth.login(&login("ada", "ada-plays"), 1), Verdict::Ok(_)));
        assert!(auth.failures.is_empty(), "success forgets the failures");
    }

    #[test]
    fn the_memory_of_failures_is_bounded() {
        let mut auth = auth(8);
        for n in 0..FAILURES_MAX as u64 + 10 {
            auth.note_failure(&n.to_string(), n);
        }
        assert_eq!(auth.failures.len(), FAILURES_MAX);
        assert!(!auth.failures.contains_key("9") && auth.failures.contains_key("10"));
    }
}
