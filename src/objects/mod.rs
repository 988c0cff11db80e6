//! Objects in a store: a directory, S3 or what speaks its protocol, Google Cloud Storage, Azure.
//!
//! A store is named by a path (`/mnt/backups`), or by a URL (`s3://bucket/prefix`, `gs://…`, `az://…`,
//! `file:///…`). Addresses and credentials come from the environment, under the names that the tools
//! of each store use: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`, ….
//!
//! Calls block until the store has answered. The requests run on a thread of the store's own, so that
//! any thread may call.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, RetryConfig,
};
use reqwest::Url;
use tokio::runtime::Runtime;

/// How long a request is repeated while the store fails to answer it.
const RETRY_TIME_MAX: Duration = Duration::from_secs(20);
const RETRIES_MAX: usize = 6;
/// How long a connection may take to be made, and a request in all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// It is not the name of a store.
    #[error(
        "{place} is no place for objects: {what}; expected a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )]
    Place { place: String, what: String },
    /// There is no such object.
    #[error("{place}: {object} is missing")]
    Missing { place: String, object: String },
    /// It is there already.
    #[error("{place}: {object} is there already")]
    Exists { place: String, object: String },
    /// The credentials are not accepted, or do not suffice.
    #[error("{place} refuses access: {what}; credentials are those of the environment ({names})")]
    Refused { place: String, what: String, names: &'static str },
    /// The request failed: nobody answers, there is no room, or something else.
    #[error("{place}: {what}")]
    Failed { place: String, what: String },
}

/// Objects under a prefix of a store.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// The text that it was opened by.
    place: String,
    /// The variables that credentials come from.
    names: &'static str,
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Objects").field(&self.place).finish()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed where requests are served.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An error's text with its causes, each said once.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Objects {
    /// Opens a place. A directory is created if it is missing; whether another store answers is seen
    /// when it is asked.
    pub fn open(place: &str) -> Result<Objects, ObjectsError> {
        let wrong = |what: String| ObjectsError::Place { place: place.to_string(), what };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("objects")
            .enable_all()
            .build()
            .map_err(|error| ObjectsError::Failed {
                place: place.to_string(),
                what: format!("no thread for its requests: {error}"),
            })?;
        let url = if place.contains("://") { Some(place) } else { None };
        let (store, prefix, names): (Arc<dyn ObjectStore>, ObjectPath, &'static str) = match url {
            None => (Arc::new(directory(Path::new(place), place)?), ObjectPath::default(), ""),
            Some(url) => {
                let url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
                let (scheme, prefix) =
                    ObjectStoreScheme::parse(&url).map_err(|error| wrong(error.to_string()))?;
                let failed = |error: object_store::Error| wrong(with_causes(&error));
                match scheme {
                    ObjectStoreScheme::Local => {
                        let path = url.to_file_path().map_err(|()| wrong("no path".to_string()))?;
                        (Arc::new(directory(&path, place)?), ObjectPath::default(), "")
                    }
                    ObjectStoreScheme::AmazonS3 => {
                        let builder = AmazonS3Builder::from_env().with_url(url.as_str());
                        let builder = builder.with_retry(retries());
                        let store = builder.with_client_options(client()).build();
                        let names =
                            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT";
                        (Arc::new(store.map_err(failed)?), prefix, names)
                    }
                    ObjectStoreScheme::GoogleCloudStorage => {
                        let builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
                        let builder = builder.with_retry(retries());
                        let store = builder.with_client_options(client()).build();
                        (Arc::new(store.map_err(failed)?), prefix, "GOOGLE_APPLICATION_CREDENTIALS")
                    }
                    ObjectStoreScheme::MicrosoftAzure => {
                        let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
                        let builder = builder.with_retry(retries());
                        let store = builder.with_client_options(client()).build();
                        let names = "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY";
                        (Arc::new(store.map_err(failed)?), prefix, names)
                    }
                    _ => return Err(wrong(format!("nothing is known of {}://", url.scheme()))),
                }
            }
        };
        Ok(Objects { store, prefix, place: place.to_string(), names, runtime: Some(runtime) })
    }

    /// The text that the place was opened by.
    pub fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, name: &str) -> ObjectPath {
        let parts = self.prefix.parts();
        let own: Vec<_> = name.split('/').map(object_store::path::PathPart::from).collect();
        ObjectPath::from_iter(parts.chain(own))
    }

    /// Runs a request on the store's thread, and waits for it.
    fn run<T: Send + 'static>(
        &self,
        name: &str,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, ObjectsError> {
        let failed = |what: &str| ObjectsError::Failed {
            place: self.place.clone(),
            what: format!("{name}: {what}"),
        };
        let runtime = self.runtime.as_ref().ok_or_else(|| failed("the store is closed"))?;
        let (answer, answered) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            // Whoever asked waits.
            let _ = answer.send(request.await);
        });
        let answer = answered.recv().map_err(|_| failed("the request was given up"))?;
        answer.map_err(|error| self.error(name, &error))
    }

    fn error(&self, name: &str, error: &object_store::Error) -> ObjectsError {
        let (place, object) = (self.place.clone(), name.to_string());
        match error {
            object_store::Error::NotFound { source, .. }
                if !source.to_string().contains("NoSuchBucket") =>
            {
                ObjectsError::Missing { place, object }
            }
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. } => ObjectsError::Exists { place, object },
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. }
                if !self.names.is_empty() =>
            {
                ObjectsError::Refused { place, what: with_causes(error), names: self.names }
            }
            // A missing bucket is not always reported as `NotFound`: for a list it comes as any other error.
            error if with_causes(error).contains("NoSuchBucket") => {
                ObjectsError::Failed { place, what: "there is no such bucket".to_string() }
            }
            error if !self.names.is_empty() && is_refusal(&with_causes(error)) => {
                ObjectsError::Refused { place, what: with_causes(error), names: self.names }
            }
            error => ObjectsError::Failed { place, what: with_causes(error) },
        }
    }

    /// Writes an object, whole or not at all; one of this name is replaced.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        self.run(name, async move { store.put(&path, bytes.into()).await.map(drop) })
    }

    /// Writes an object that is not there yet, else [`ObjectsError::Exists`].
    pub fn create(&self, name: &str, bytes: Bytes) -> Result<(), ObjectsError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.run(name, async move { store.put_opts(&path, bytes.into(), options).await.map(drop) })
    }

    /// All of an object.
    pub fn get(&self, name: &str) -> Result<Bytes, ObjectsError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        self.run(name, async move { store.get(&path).await?.bytes().await })
    }

    /// The objects whose names begin with `under/`, with their lengths.
    pub fn list(&self, under: &str) -> Result<BTreeMap<String, u64>, ObjectsError> {
        let (store, path) = (Arc::clone(&self.store), self.path(under));
        let found = self.run(under, async move {
            let list = store.list(Some(&path));
            list.map_ok(|meta| (meta.location, meta.size)).try_collect::<Vec<_>>().await
        })?;
        let own = |(path, size): (ObjectPath, u64)| {
            let parts = path.prefix_match(&self.prefix)?;
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            Some((parts.join("/"), size))
        };
        Ok(found.into_iter().filter_map(own).collect())
    }

    /// Removes an object; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), ObjectsError> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        match self.run(name, async move { store.delete(&path).await }) {
            Err(ObjectsError::Missing { .. }) => Ok(()),
            result => result,
        }
    }
}

/// Whether a store has answered that the credentials do not suffice.
fn is_refusal(text: &str) -> bool {
    text.contains("403 Forbidden") || text.contains("401 Unauthorized")
}

/// A directory as a store. What was written is on disk when the call returns.
fn directory(path: &Path, place: &str) -> Result<LocalFileSystem, ObjectsError> {
    let failed = |what: String| ObjectsError::Failed { place: place.to_string(), what };
    std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(path);
    Ok(store.map_err(|error| failed(with_causes(&error)))?.with_fsync(true))
}

fn retries() -> RetryConfig {
    let (max_retries, retry_timeout) = (RETRIES_MAX, RETRY_TIME_MAX);
    RetryConfig { max_retries, retry_timeout, ..RetryConfig::default() }
}

fn client() -> ClientOptions {
    let allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_connect_timeout(CONNECT_TIME_MAX)
        .with_timeout(REQUEST_TIME_MAX)
}
