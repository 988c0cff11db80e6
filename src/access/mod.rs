//! Access: tokens, the roles that they give, and what they are narrowed to. It knows nothing of requests.
//!
//! Tokens are asked for as soon as the data directory has a file of them, or there is an issuer.

mod grant;
mod issuer;
mod record;
mod store;
mod token;

/// The files of access in a data directory: tokens as hashes, and the record of administrative acts.
pub const FILES: [&str; 2] = [store::FILE, record::FILE];

pub use grant::{Action, Grant, Narrowing, Role};
pub use issuer::{Issuer, IssuerConfig, IssuerConfigError};
pub use record::{AdminAct, AdminRecord};
pub use store::{Access, AccessError, NewToken, TokenEntry, TokenRefusal, TokenStore};
