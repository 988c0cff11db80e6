//! TLS: certificates that are replaced under load, and those that cannot be used.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::QUERIES;
use crate::common::Server;

/// Certificates for 127.0.0.1 that one authority has signed.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Writes a new certificate and its key; the certificate.
    fn write(&self, certificate: &Path, key: &Path) -> Vec<u8> {
        let own = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        let signed = params.signed_by(&own, &self.issuer).unwrap();
        std::fs::write(key, own.serialize_pem()).unwrap();
        std::fs::write(certificate, signed.pem()).unwrap();
        signed.der().to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_requests_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    std::fs::write(file("ca.pem"), authority.certificate.pem()).unwrap();
    authority.write(&file("cert.pem"), &file("key.pem"));
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Server::with_arguments(
        &[("views.sql", QUERIES)],
        &[
            "--no-clickhouse",
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ],
        &[],
    );
    let url = server.url("").replace("http://", "https://");
    assert!(
        server.url("").starts_with("https://"),
        "serving.json tells the scheme: {}",
        server.url("")
    );
    heliostat::internals::http::client();
    let ca = reqwest::Certificate::from_pem(authority.certificate.pem().as_bytes()).unwrap();
    let connect = move || {
        let builder = reqwest::Client::builder().tls_certs_only([ca.clone()]);
        builder.pool_max_idle_per_host(0).tls_info(true).build().unwrap()
    };
    let event = json!({"type": "OrderPaid", "data": {"id": "a", "amount": 7}});
    // Each request is a connection of its own.
    let load = |until: std::time::Instant| {
        let (connect, url, event) = (connect.clone(), url.clone(), event.clone());
        tokio::spawn(async move {
            let client = connect();
            let mut shown = Vec::new();
            while std::time::Instant::now() < until {
                let response =
                    client.post(format!("{url}/v1/events")).json(&event).send().await.unwrap();
                assert_eq!(response.status(), 200);
                let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
                shown.push(info.peer_certificate().unwrap().to_vec());
            }
            shown
        })
    };
    let running: Vec<_> = (0..4)
        .map(|_| load(std::time::Instant::now() + std::time::Duration::from_secs(6)))
        .collect();
    let mut last = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        last = authority.write(&cert, &key);
    }
    for task in running {
        let shown = task.await.unwrap();
        assert!(shown.len() > 20, "{} requests", shown.len());
        assert_ne!(shown[0], last);
    }
    // A session that is resumed shows the certificate that it began with.
    let response = connect().get(format!("{url}/healthz")).send().await.unwrap();
    let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    assert_eq!(info.peer_certificate(), Some(&*last), "the last certificate is in use");

    // HTTP/2 for those who ask for it, and commands that know the authority.
    let output = Command::new("curl")
        .args([
            "--silent",
            "--http2",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version}",
            "--cacert",
        ])
        .arg(file("ca.pem"))
        .arg(format!("{url}/healthz"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2");
    let output =
        server.command(&["rebuild", "orders", "--tls-ca", file("ca.pem").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    authority.write(&file("cert.pem"), &file("key.pem"));
    authority.write(&file("other.pem"), &file("other-key.pem"));
    std::fs::write(file("empty.pem"), "").unwrap();
    std::fs::create_dir(file("queries")).unwrap();
    for (certificate, key, named) in [
        ("cert.pem", Some("other-key.pem"), "other-key.pem"),
        ("empty.pem", Some("key.pem"), "empty.pem"),
        ("cert.pem", Some("absent.pem"), "absent.pem"),
        ("cert.pem", None, "--tls-key"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command.args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0", "--queries"]);
        command.arg(file("queries")).arg("--data-dir").arg(file("data"));
        command.arg("--tls-cert").arg(file(certificate));
        if let Some(key) = key {
            command.arg("--tls-key").arg(file(key));
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(named), "{error}");
    }
}
