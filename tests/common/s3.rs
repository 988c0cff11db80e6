//! A server of S3's protocol, as a process of its own, which checks signatures.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::clients;

/// The server, and who may use it.
pub struct S3Server {
    child: Child,
    pub endpoint: String,
    access_key: String,
    secret_key: String,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests before everybody has to sign: a user, the user's rights and key, a bucket.
const UNSIGNED_REQUESTS: &str = "4";

impl S3Server {
    /// Starts it with a bucket named `bucket`.
    pub async fn start() -> S3Server {
        let mut child = Command::new(clients().join("python/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", UNSIGNED_REQUESTS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run `make clients` first");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let told = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once("Running on ").map(|(_, url)| url.trim().to_string())
        });
        // The thread ends with the server's output.
        std::thread::spawn(move || lines.for_each(drop));
        let mut server = S3Server {
            child,
            endpoint: told.expect("it tells where it listens"),
            access_key: String::new(),
            secret_key: String::new(),
        };
        server.iam("Action=CreateUser&UserName=tests").await;
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
        let policy: String = policy.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let of = "UserName=tests&PolicyName=all&PolicyDocument";
        server.iam(&format!("Action=PutUserPolicy&{of}={policy}")).await;
        let made = server.iam("Action=CreateAccessKey&UserName=tests").await;
        let value = |name: &str| {
            let (_, rest) =
                made.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{made}"));
            rest.split('<').next().unwrap().to_string()
        };
        (server.access_key, server.secret_key) = (value("AccessKeyId"), value("SecretAccessKey"));
        let client = heliostat::internals::http::client();
        let made = client.put(format!("{}/bucket", server.endpoint)).send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        server
    }

    /// A request about users; the answer.
    async fn iam(&self, action: &str) -> String {
        let scope = "Credential=x/20260101/us-east-1/iam/aws4_request";
        let request = heliostat::internals::http::client()
            .post(&self.endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"),
            )
            .body(format!("{action}&Version=2010-05-08"));
        request.send().await.unwrap().text().await.unwrap()
    }

    /// The environment of those who may use it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", &self.access_key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_key),
        ];
        variables.map(|(name, value)| (name.to_string(), value.to_string())).into()
    }
}
