use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::access::Role;

const ISSUER: &str = "https://login.example";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn key_pair() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn set_of(keys: &[(&str, &Ed25519KeyPair)]) -> Value {
    let key = |(kid, key): &(&str, &Ed25519KeyPair)| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key())});
    json!({"keys": keys.iter().map(key).collect::<Vec<_>>()})
}

fn token(key: &Ed25519KeyPair, head: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
    let signature = encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn head() -> Value {
    json!({"alg": "EdDSA", "kid": "a"})
}

fn now() -> u64 {
    now_ms() / 1000
}

/// Claims of a reader, with these in place of what is there.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": ["other", "heliostat"], "sub": "ada", "exp": now() + 60,
        "realm": {"roles": ["reader", "else"]}, "tenant": "t7",
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
    claims
}

struct Fixture {
    file: tempfile::NamedTempFile,
    key: Ed25519KeyPair,
    alarms: Alarms,
    issuer: Issuer,
}

impl Fixture {
    fn new(grants: Value) -> Fixture {
        let (file, key) = (tempfile::NamedTempFile::new().unwrap(), key_pair());
        std::fs::write(file.path(), set_of(&[("a", &key)]).to_string()).unwrap();
        let config = json!({
            "issuer": ISSUER, "audience": "heliostat", "keys": file.path(), "leeway_s": 5,
            "grants": grants,
        });
        let config: IssuerConfig = serde_json::from_value(config).unwrap();
        config.check().unwrap();
        let alarms = Alarms::default();
        let issuer = Issuer::new(config, alarms.clone()).unwrap();
        Fixture { file, key, alarms, issuer }
    }

    /// With the keys read, and read again when they are asked for.
    async fn following(grants: Value) -> Fixture {
        let fixture = Fixture::new(grants);
        tokio::spawn(fixture.issuer.follow_keys());
        while fixture.issuer.keys.now().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture
    }

    async fn of(&self, claims: Value) -> Result<Grant, TokenRefusal> {
        let token = token(&self.key, &head(), &claims);
        self.issuer.grant(&token).await.map(|grant| (*grant).clone())
    }
}

fn readers() -> Value {
    json!([{"claim": "realm.roles", "value": "reader", "role": "read"}])
}

#[tokio::test]
async fn token_of_issuer_gives_the_role_of_its_claim() {
    let fixture = Fixture::following(readers()).await;
    let grant = fixture.of(claims(json!({}))).await.unwrap();
    assert_eq!((grant.role, grant.name.as_str()), (Role::Read, "https://login.example#ada"));
    assert!(!grant.is_narrowed());
    let none = fixture.of(claims(json!({"realm": {"roles": ["else"]}}))).await;
    assert!(matches!(none, Err(TokenRefusal::NoRole(_))), "{none:?}");
}

#[tokio::test]
async fn token_for_others_or_another_time_is_refused() {
    let fixture = Fixture::following(readers()).await;
    for (changes, why) in [
        (json!({"aud": "other"}), "audience"),
        (json!({"aud": null}), "audience"),
        (json!({"aud": 7}), "claims"),
        (json!({"iss": "https://evil.example"}), "another issuer"),
        (json!({"exp": now() - 6}), "expired"),
        (json!({"exp": null}), "never expires"),
        (json!({"exp": "never"}), "claims"),
        (json!({"nbf": now() + 60}), "not valid yet"),
        (json!({"nbf": "soon"}), "claims"),
        (json!({"sub": null}), "no name"),
        (json!({"sub": "a\nb"}), "no name"),
    ] {
        let refused = fixture.of(claims(changes.clone())).await;
        let Err(TokenRefusal::Invalid(message)) = refused else { panic!("{changes}: {refused:?}") };
        assert!(message.contains(why), "{changes}: {message}");
    }
    // Clocks may differ by the leeway.
    for changes in [json!({"exp": now() - 2}), json!({"nbf": now() + 3}), json!({"exp": 1e11})] {
        fixture.of(claims(changes)).await.unwrap();
    }
}

#[tokio::test]
async fn forged_signature_or_algorithm_is_refused() {
    let fixture = Fixture::following(readers()).await;
    let claims = claims(json!({}));
    let other = key_pair();
    let public = URL_SAFE_NO_PAD.encode(fixture.key.public_key());
    let hmac_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, fixture.key.public_key().as_ref());
    let signed =
        format!("{}.{}", encode(r#"{"alg":"HS256","kid":"a"}"#), encode(claims.to_string()));
    let hmac = format!("{signed}.{}", encode(ring::hmac::sign(&hmac_key, signed.as_bytes())));
    let none = format!("{}.{}.", encode(r#"{"alg":"none","kid":"a"}"#), encode(claims.to_string()));
    let own = token(&fixture.key, &head(), &claims);
    let (signed, signature) = own.rsplit_once('.').unwrap();
    let head_of = |alg: &str| json!({"alg": alg, "kid": "a"});
    for forged in [
        token(&other, &head(), &claims),
        hmac,
        none,
        format!("{signed}."),
        format!("{signed}.{}", signature.replace(&signature[..2], "__")),
        format!("{signed}x.{signature}"),
        token(&fixture.key, &head_of("RS256"), &claims),
        token(&fixture.key, &head_of("ES256"), &claims),
        token(&fixture.key, &head_of("eddsa"), &claims),
        token(&fixture.key, &json!({"alg": "EdDSA", "kid": "a", "crit": ["exp"]}), &claims),
        token(&fixture.key, &json!({"kid": "a"}), &claims),
        // A key that comes with the token is nobody's.
        token(
            &other,
            &json!({"alg": "EdDSA", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": public}}),
            &claims,
        ),
    ] {
        let refused = fixture.issuer.grant(&forged).await;
        assert!(matches!(refused, Err(TokenRefusal::Invalid(_))), "{forged}: {refused:?}");
    }
    // Without a name of the key there has to be one alone.
    let unnamed = token(&fixture.key, &json!({"alg": "EdDSA"}), &claims);
    fixture.issuer.grant(&unnamed).await.unwrap();
}

#[tokio::test]
async fn narrowing_takes_its_parts_from_claims_and_is_never_widened_by_them() {
    let grants = json!([
        {"claim": "scope", "value": "orders.write", "role": "write",
         "types": ["Order*"], "streams": ["{tenant}-order-"]},
        {"claim": "admin", "value": "true", "role": "admin"},
        {"role": "read", "views": ["{groups}_*"]},
    ]);
    let fixture = Fixture::following(grants).await;
    let writer = fixture.of(claims(json!({"scope": "openid orders.write"}))).await.unwrap();
    assert_eq!(writer.narrowing.streams, ["t7-order-"]);
    assert_eq!(writer.default_source(), Some("https://login.example#ada"));
    assert_eq!(fixture.of(claims(json!({"admin": true}))).await.unwrap().role, Role::Admin);
    let reader = fixture.of(claims(json!({"groups": ["shop", "pay"]}))).await.unwrap();
    assert!(reader.sees_view("shop_daily") && reader.sees_view("pay_x"));
    assert!(!reader.sees_view("hr_x"));
    for groups in [json!([]), json!(null), json!("*"), json!(["shop", ""]), json!({"a": 1})] {
        let refused = fixture.of(claims(json!({"groups": groups.clone()}))).await;
        assert!(matches!(refused, Err(TokenRefusal::NoRole(_))), "{groups}: {refused:?}");
    }
}

#[tokio::test]
async fn new_key_is_read_when_a_token_names_it_and_old_ones_stay_while_none_can_be_read() {
    let fixture = Fixture::following(readers()).await;
    let new = key_pair();
    let of_new = token(&new, &json!({"alg": "EdDSA", "kid": "b"}), &claims(json!({})));
    std::fs::write(fixture.file.path(), set_of(&[("b", &new)]).to_string()).unwrap();
    fixture.issuer.grant(&of_new).await.unwrap();
    let old = fixture.of(claims(json!({}))).await;
    assert!(matches!(old, Err(TokenRefusal::UnknownKey(_))), "{old:?}");

    std::fs::write(fixture.file.path(), r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#).unwrap();
    while fixture.alarms.list().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let alarm = &fixture.alarms.list()[0].message;
    assert!(alarm.contains("keys from before stay") && alarm.contains("no key for"), "{alarm}");
    fixture.issuer.grant(&of_new).await.unwrap();
    std::fs::write(fixture.file.path(), set_of(&[("b", &new)]).to_string()).unwrap();
    while !fixture.alarms.list().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn unknown_keys_cannot_keep_the_issuer_busy() {
    let fixture = Fixture::following(readers()).await;
    let reads = fixture.issuer.keys.read_anew();
    assert!(reads.is_some() && fixture.issuer.keys.read_anew().is_none());
}

#[tokio::test]
async fn token_is_not_refused_for_good_before_keys_are_read() {
    let fixture = Fixture::new(readers());
    let early = fixture.of(claims(json!({}))).await;
    assert!(matches!(early, Err(TokenRefusal::NoKeys(_))), "{early:?}");
}

#[test]
fn configuration_that_cannot_be_meant_is_refused() {
    let with = |name: &str, value: Value| {
        let mut config = json!({
            "issuer": ISSUER, "audience": "a", "keys": "https://login.example/keys",
            "grants": [{"role": "read"}],
        });
        config[name] = value;
        serde_json::from_value::<IssuerConfig>(config).unwrap().check()
    };
    assert_eq!(with("leeway_s", json!(600)), Ok(()));
    assert_eq!(with("keys", json!("http://127.0.0.1:1/keys")), Ok(()));
    for (name, value) in [
        ("issuer", json!("")),
        ("audience", json!([])),
        ("keys", json!("http://login.example/keys")),
        ("leeway_s", json!(601)),
        ("refresh_s", json!(9)),
        ("grants", json!([])),
        ("grants", json!([{"role": "admin", "types": ["A"]}])),
        ("grants", json!([{"role": "read", "claim": "a"}])),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name} {value}");
    }
}
