//! Signatures of tokens (JWS in compact form, RFC 7515), by RS256, ES256 and EdDSA with Ed25519.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// A token in its parts, none of which is to be believed before the signature is checked.
pub struct Parts<'t> {
    pub head: Vec<u8>,
    pub claims: Vec<u8>,
    pub signature: Vec<u8>,
    /// The text that is signed.
    pub signed: &'t str,
}

/// Takes a token apart; `None`: it is no such token.
pub fn split(token: &str) -> Option<Parts<'_>> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (head, claims) = signed.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    // A dot in the claims is no character of the encoding.
    let (head, claims, signature) = (decode(head)?, decode(claims)?, decode(signature)?);
    Some(Parts { head, claims, signature, signed })
}

/// A public key, with the one algorithm that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// The only `alg` that a token of this key may have. HMAC and `none` belong to no key.
    pub fn algorithm(&self) -> &'static str {
        match self {
            PublicKey::Rsa { .. } => "RS256",
            PublicKey::P256(_) => "ES256",
            PublicKey::Ed25519(_) => "EdDSA",
        }
    }

    /// Whether this key has signed the message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let result = match self {
            PublicKey::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            PublicKey::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            PublicKey::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
        };
        result.is_ok()
    }
}
