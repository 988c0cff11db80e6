//! The file of tokens in the data directory, and the server's view of it.
//!
//! `tokens.json` is written by `heliostat token` and read by the server, which sees a change within
//! [`LOOK_INTERVAL`]: a token that is revoked is refused from then on. Tokens of issuers are accepted
//! beside them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::grant::{Grant, Narrowing, Role};
use super::issuer::{self, Issuer, IssuerConfig, KeysError};
use super::token;
use crate::model::alarm::{Alarms, Part};

/// The file in the data directory.
pub const FILE: &str = "tokens.json";
/// Locked while the file is changed.
const LOCK_FILE: &str = "tokens.lock";
/// How long a change of the file may go unseen.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Why tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file cannot be used.
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The file of tokens is not one.
    #[error(
        "{path} is no file of tokens: {reason}; restore it from a backup, or remove it and create the tokens anew"
    )]
    Damaged { path: PathBuf, reason: String },
    /// The token that is to be made cannot be.
    #[error("{0}")]
    Refused(String),
    /// There is no such token.
    #[error("there is no token {0:?}: `heliostat token list` shows them")]
    NotFound(String),
    /// The keys of an issuer cannot be had.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The system has no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// Unique among the tokens.
    pub name: String,
    pub role: Role,
    /// The SHA-256 of the token, in hexadecimal.
    sha256: String,
    #[serde(with = "rfc3339")]
    pub created: DateTime<Utc>,
    /// From then on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339::option")]
    pub expires: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub narrowing: Narrowing,
}

/// Times in the file are RFC 3339.
mod rfc3339 {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<DateTime<Utc>, D::Error> {
        let text = String::deserialize(input)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(de::Error::custom)?;
        Ok(time.to_utc())
    }

    /// The same for an optional time.
    pub mod option {
        use super::{DateTime, Deserializer, Serializer, Utc};

        pub fn serialize<S: Serializer>(
            time: &Option<DateTime<Utc>>,
            out: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, out),
                None => out.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(
            input: D,
        ) -> Result<Option<DateTime<Utc>>, D::Error> {
            super::deserialize(input).map(Some)
        }
    }
}

impl TokenEntry {
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    tokens: Vec<TokenEntry>,
}

/// The properties of a token that is to be created.
#[derive(Debug)]
pub struct NewToken {
    /// Without one the token is named by its role and a number.
    pub name: Option<String>,
    /// The token's role.
    pub role: Role,
    /// After which time it is refused; `None`: never.
    pub expires_in: Option<Duration>,
    /// The event types, sources, streams and views that the token is limited to.
    pub narrowing: Narrowing,
}

/// Creates, lists and revokes tokens.
pub struct TokenStore {
    data_dir: PathBuf,
}

impl TokenStore {
    /// The tokens of a data directory, which need not exist yet.
    pub fn new(data_dir: &Path) -> Self {
        TokenStore { data_dir: data_dir.to_path_buf() }
    }

    /// Creates a token and returns it with its entry. It is not kept and cannot be shown again.
    pub fn create(&self, new: NewToken) -> Result<(String, TokenEntry), AccessError> {
        check(&new)?;
        let token = token::new().map_err(AccessError::Random)?;
        let created = now();
        let expires = match new.expires_in {
            Some(after) => Some(expiry(created, after)?),
            None => None,
        };
        self.change(|tokens| {
            let is_taken = |name: &str| tokens.iter().any(|token| token.name == name);
            let name = match new.name {
                Some(name) if is_taken(&name) => {
                    let message = format!(
                        "there is a token {name:?} already: revoke it, or take another name"
                    );
                    return Err(AccessError::Refused(message));
                }
                Some(name) => name,
                None => (1_u64..)
                    .map(|number| format!("{}-{number}", new.role))
                    .find(|name| !is_taken(name))
                    .unwrap_or_default(),
            };
            let (role, narrowing) = (new.role, new.narrowing);
            let sha256 = token::hash(&token);
            let entry = TokenEntry { name, role, sha256, created, expires, narrowing };
            tokens.push(entry.clone());
            Ok(entry)
        })
        .map(|entry| (token, entry))
    }

    /// All tokens, in the order of their creation.
    pub fn list(&self) -> Result<Vec<TokenEntry>, AccessError> {
        Ok(read(&self.path())?.unwrap_or_default().tokens)
    }

    /// Revokes a token: a running server refuses it within a tenth of a second.
    pub fn revoke(&self, name: &str) -> Result<(), AccessError> {
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|token| token.name != name);
            match tokens.len() {
                len if len == before => Err(AccessError::NotFound(name.to_string())),
                _ => Ok(()),
            }
        })
    }

    fn path(&self) -> PathBuf {
        self.data_dir.join(FILE)
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<TokenEntry>) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        let directory = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data_dir);
        directory.map_err(|source| AccessError::File { path: self.data_dir.clone(), source })?;
        let lock_path = self.data_dir.join(LOCK_FILE);
        let lock = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&lock_path);
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
        let _lock = lock.map_err(|source| AccessError::File { path: lock_path, source })?;
        let mut file = read(&self.path())?.unwrap_or_default();
        let result = change(&mut file.tokens)?;
        let write = || {
            let mut new = tempfile::NamedTempFile::new_in(&self.data_dir)?;
            serde_json::to_writer_pretty(&mut new, &file).map_err(io::Error::other)?;
            new.write_all(b"\n")?;
            new.as_file().sync_all()?;
            new.persist(self.path()).map_err(|error| error.error)?;
            fs::File::open(&self.data_dir)?.sync_all()
        };
        write().map_err(|source| AccessError::File { path: self.path(), source })?;
        Ok(result)
    }
}

/// Times are kept to the second.
fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now)
}

fn expiry(from: DateTime<Utc>, after: Duration) -> Result<DateTime<Utc>, AccessError> {
    let after = chrono::Duration::from_std(after).ok();
    let expires = after.and_then(|after| from.checked_add_signed(after));
    expires.ok_or_else(|| AccessError::Refused("--expires: that is too far ahead".to_string()))
}

fn check(new: &NewToken) -> Result<(), AccessError> {
    let refuse = |message: String| Err(AccessError::Refused(message));
    if let Some(name) = &new.name
        && (name.is_empty() || name.len() > 255 || name.chars().any(char::is_control))
    {
        return refuse("--name: expected 1 to 255 characters that can be printed".to_string());
    }
    check_narrowing(new.role, &new.narrowing).map_err(AccessError::Refused)
}

/// Checks a narrowing for this role; the error says what is wrong with it.
pub fn check_narrowing(role: Role, narrowing: &Narrowing) -> Result<(), String> {
    let Narrowing { types, sources, streams, views } = narrowing;
    let lists = [("types", types), ("sources", sources), ("streams", streams), ("views", views)];
    for (name, list) in lists {
        if list.iter().any(String::is_empty) {
            return Err(format!("{name}: one of the names is empty"));
        }
    }
    match role {
        Role::Admin | Role::Follow if !narrowing.is_none() => {
            Err(format!("role {role} cannot be narrowed"))
        }
        Role::Write if !views.is_empty() => {
            Err("role write reads no views: leave views out".to_string())
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<TokenFile>, AccessError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AccessError::File { path: path.to_path_buf(), source }),
    };
    let damaged = |error: serde_json::Error| AccessError::Damaged {
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

/// The identity of a state of the file: its inode, size and time of change.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

/// Why the bearer of a token may do nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// The token is unknown, revoked, expired, or not signed as it should be.
    Invalid(String),
    /// The token is signed by a key that the issuer is not known to have.
    UnknownKey(String),
    /// The token is right, and gives no role.
    NoRole(String),
    /// The keys of the token's issuer have not been read yet.
    NoKeys(String),
}

/// The tokens that a server accepts now. It follows the file.
pub struct Access {
    path: PathBuf,
    alarms: Alarms,
    state: Mutex<AccessState>,
    issuers: Vec<Issuer>,
}

struct AccessState {
    stamp: Stamp,
    looked: Instant,
    /// By hash; `None` where no token is asked for.
    tokens: Option<Arc<HashMap<String, AcceptedToken>>>,
}

struct AcceptedToken {
    grant: Arc<Grant>,
    expires: Option<DateTime<Utc>>,
}

impl Access {
    /// Follows the tokens of a data directory, and accepts those of issuers.
    pub fn open(
        data_dir: &Path,
        issuers: &[IssuerConfig],
        alarms: Alarms,
    ) -> Result<Self, AccessError> {
        let issuer = |config: &IssuerConfig| Issuer::new(config.clone(), alarms.clone());
        let issuers = issuers.iter().map(issuer).collect::<Result<_, _>>()?;
        let path = data_dir.join(FILE);
        let stamp = stamp(&path);
        let tokens = read(&path)?.map(|file| Arc::new(accepted(file)));
        let state = Mutex::new(AccessState { stamp, looked: Instant::now(), tokens });
        Ok(Access { path, alarms, state, issuers })
    }

    /// Whether a token is asked for.
    pub fn is_required(&self) -> bool {
        !self.issuers.is_empty() || self.look().tokens.is_some()
    }

    /// The issuers whose tokens are accepted.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The rights of a token's bearer.
    pub async fn grant(&self, token: &str) -> Result<Arc<Grant>, TokenRefusal> {
        if self.issuers.is_empty() || !issuer::is_signed_token(token) {
            let refused = || "the token is unknown, revoked or expired".to_string();
            return self.grant_of_store(token).ok_or_else(|| TokenRefusal::Invalid(refused()));
        }
        match issuer::named_by(&self.issuers, token) {
            Some(issuer) => issuer.grant(token).await,
            None => Err(TokenRefusal::Invalid("the token's issuer is unknown".to_string())),
        }
    }

    fn grant_of_store(&self, token: &str) -> Option<Arc<Grant>> {
        let tokens = self.look().tokens.clone()?;
        // Found by a hash: how long that takes tells nothing about the tokens.
        let accepted = tokens.get(&token::hash(token))?;
        let expired = accepted.expires.is_some_and(|expires| expires <= Utc::now());
        (!expired).then(|| Arc::clone(&accepted.grant))
    }

    /// The state after a look at the file, if the last one is too long ago.
    fn look(&self) -> MutexGuard<'_, AccessState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < LOOK_INTERVAL {
            return state;
        }
        state.looked = Instant::now();
        let stamp = stamp(&self.path);
        if stamp == state.stamp {
            return state;
        }
        match read(&self.path) {
            Ok(Some(file)) => {
                tracing::info!(tokens = file.tokens.len(), "the tokens have changed");
                state.tokens = Some(Arc::new(accepted(file)));
                state.stamp = stamp;
                self.alarms.clear(Part::Access, "tokens");
            }
            // Nobody gets in by removing the file while the server runs.
            Ok(None) if state.tokens.is_some() => {
                let message = format!("{} is gone: no token is accepted", self.path.display());
                self.alarms.raise(Part::Access, "tokens", message);
                state.tokens = Some(Arc::default());
                state.stamp = stamp;
            }
            Ok(None) => state.stamp = stamp,
            Err(error) => {
                let message = format!("{error}; the tokens from before stay");
                self.alarms.raise(Part::Access, "tokens", message);
            }
        }
        state
    }
}

fn accepted(file: TokenFile) -> HashMap<String, AcceptedToken> {
    let accept = |token: TokenEntry| {
        let TokenEntry { name, role, narrowing, expires, sha256, .. } = token;
        let grant = Arc::new(Grant { name, role, narrowing });
        (sha256, AcceptedToken { grant, expires })
    };
    file.tokens.into_iter().map(accept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn new(name: &str, role: Role) -> NewToken {
        let (expires_in, narrowing) = (None, Narrowing::default());
        NewToken { name: Some(name.to_string()), role, expires_in, narrowing }
    }

    fn wait() {
        std::thread::sleep(LOOK_INTERVAL + Duration::from_millis(20));
    }

    #[test]
    fn tokens_are_accepted_until_they_are_revoked_or_expire() {
        let directory = tempfile::tempdir().unwrap();
        let store = TokenStore::new(directory.path());
        let access = Access::open(directory.path(), &[], Alarms::default()).unwrap();
        assert!(!access.is_required(), "there is no file of tokens");
        let (token, entry) = store.create(new("billing", Role::Write)).unwrap();
        wait();
        assert!(access.is_required());
        assert_eq!(access.grant_of_store(&token).unwrap().name, "billing");
        assert!(access.grant_of_store("hst_other").is_none());
        let kept = fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert!(!kept.contains(&token) && kept.contains(&entry.sha256));
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let short = NewToken { expires_in: Some(Duration::ZERO), ..new("short", Role::Read) };
        let (expired, _) = store.create(short).unwrap();
        store.revoke("billing").unwrap();
        wait();
        assert!(
            access.grant_of_store(&token).is_none() && access.grant_of_store(&expired).is_none()
        );
        store.revoke("short").unwrap();
        wait();
        assert!(access.is_required(), "without tokens nobody gets in");
    }

    #[test]
    fn names_are_unique_and_given_where_none_is() {
        let directory = tempfile::tempdir().unwrap();
        let store = TokenStore::new(directory.path());
        store.create(new("a", Role::Read)).unwrap();
        assert!(matches!(store.create(new("a", Role::Read)), Err(AccessError::Refused(_))));
        for expected in ["read-1", "read-2"] {
            let unnamed = NewToken { name: None, ..new("", Role::Read) };
            assert_eq!(store.create(unnamed).unwrap().1.name, expected);
        }
        assert!(matches!(store.revoke("b"), Err(AccessError::NotFound(_))));
        assert_eq!(store.list().unwrap().len(), 3);
    }

    #[test]
    fn a_file_that_is_damaged_or_gone_lets_nobody_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let (token, _) = TokenStore::new(directory.path()).create(new("a", Role::Read)).unwrap();
        let alarms = Alarms::default();
        let access = Access::open(directory.path(), &[], alarms.clone()).unwrap();
        fs::write(&path, "{").unwrap();
        wait();
        assert!(access.grant_of_store(&token).is_some(), "tokens from before stay");
        assert_eq!(alarms.list().len(), 1);
        assert!(Access::open(directory.path(), &[], Alarms::default()).is_err());
        fs::remove_file(&path).unwrap();
        wait();
        assert!(access.is_required() && access.grant_of_store(&token).is_none());
    }

    #[test]
    fn narrowing_that_means_nothing_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = TokenStore::new(directory.path());
        let views = || Narrowing { views: vec!["a".to_string()], ..Narrowing::default() };
        for role in [Role::Admin, Role::Follow, Role::Write] {
            let narrowed = NewToken { narrowing: views(), ..new("a", role) };
            assert!(matches!(store.create(narrowed), Err(AccessError::Refused(_))), "{role}");
        }
        let narrowed = NewToken { narrowing: views(), ..new("a", Role::Read) };
        store.create(narrowed).unwrap();
    }
}
