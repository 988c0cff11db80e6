//! Who may do what: tokens, the roles that they give, and what they are narrowed to. It knows no
//! HTTP.
//!
//! Tokens are asked for as soon as the data directory has a file of them.

mod grant;
mod record;
mod store;
mod token;

pub use grant::{Action, Grant, Narrowing, Role};
pub use record::{AdminAct, AdminRecord};
pub use store::{Access, AccessError, NewToken, TokenEntry, TokenStore};
