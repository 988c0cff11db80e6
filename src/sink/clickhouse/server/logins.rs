//! Users of the own ClickHouse: Heliostat itself, and readers of the views. Passwords are random and kept in
//! files of the data directory that are their user's alone, in the form that `curl --netrc-file` reads.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ServerError;

/// The user of Heliostat itself, who may do everything.
const OWN_USER: &str = "heliostat";
/// The user of analysts, who may read the views.
const READER_USER: &str = "reader";
/// Random bytes in a password.
const RANDOM_BYTES: usize = 24;

/// A user and the password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password, in plain.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// The SHA-256 of the password, in hexadecimal, as ClickHouse takes it.
    pub(super) fn password_sha256(&self) -> String {
        Sha256::digest(self.password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Everybody who may log in.
#[derive(Clone)]
pub struct Logins {
    /// Heliostat itself.
    pub own: Login,
    /// Readers of the views; the first one is `reader`.
    pub readers: Vec<Login>,
}

impl Logins {
    /// Reads the passwords of a data directory, and makes those that are missing. `more` are further
    /// readers; a configured password of `reader` takes the place of the one in its file.
    pub fn open(data_dir: &Path, more: Vec<Login>) -> Result<Logins, ServerError> {
        let own = keep(&Self::own_file(data_dir), OWN_USER)?;
        let file = Self::reader_file(data_dir);
        let mut readers = vec![match more.iter().rfind(|login| login.user == READER_USER) {
            Some(configured) => replace(&file, configured)?,
            None => keep(&file, READER_USER)?,
        }];
        for login in more {
            readers.retain(|known| known.user != login.user);
            readers.push(login);
        }
        readers.sort_by_key(|login| login.user != READER_USER);
        Ok(Logins { own, readers })
    }

    /// Where the password of Heliostat's own user is.
    pub fn own_file(data_dir: &Path) -> PathBuf {
        data_dir.join("clickhouse").join("heliostat.netrc")
    }

    /// Where the password of `reader` is.
    pub fn reader_file(data_dir: &Path) -> PathBuf {
        data_dir.join("reader.netrc")
    }
}

/// The login in a file, which is made if it is missing.
fn keep(path: &Path, user: &str) -> Result<Login, ServerError> {
    let file_error = |source| ServerError::File { path: path.to_path_buf(), source };
    match fs::read_to_string(path) {
        Ok(text) => read_netrc(&text).ok_or_else(|| {
            let message = "it names no login and password: remove it, and it is made anew";
            file_error(io::Error::new(io::ErrorKind::InvalidData, message))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; RANDOM_BYTES];
            getrandom::fill(&mut random).map_err(|error| file_error(io::Error::other(error)))?;
            let password = URL_SAFE_NO_PAD.encode(random);
            replace(path, &Login { user: user.to_string(), password })
        }
        Err(error) => Err(file_error(error)),
    }
}

/// Writes a login into its file, in place of what is there, and returns it.
fn replace(path: &Path, login: &Login) -> Result<Login, ServerError> {
    if let Some(parent) = path.parent() {
        super::create_dir(parent)?;
    }
    let Login { user, password } = login;
    let password = netrc_word(password);
    let line = |machine| format!("machine {machine} login {user} password {password}\n");
    super::write_secret(path, &["127.0.0.1", "localhost"].map(line).concat())?;
    Ok(login.clone())
}

/// A word as curl reads it: in quotes where a space or a quote would end it.
fn netrc_word(word: &str) -> String {
    if !word.contains(|c: char| c.is_whitespace() || c == '"' || c == '\\' || c == '#') {
        return word.to_string();
    }
    let escaped = word.chars().map(|c| match c {
        '\n' => "\\n".to_string(),
        '\r' => "\\r".to_string(),
        '\t' => "\\t".to_string(),
        '"' | '\\' => format!("\\{c}"),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// The next word, and the text behind it; the reverse of [`netrc_word`].
fn next_word(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_string(), &text[end..]));
    };
    let mut word = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((word, &quoted[at + 1..])),
            '\\' => word.push(match characters.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                c => c,
            }),
            c => word.push(c),
        }
    }
    None
}

fn read_netrc(text: &str) -> Option<Login> {
    let mut rest = text;
    let (mut user, mut password) = (None, None);
    while let Some((word, behind)) = next_word(rest) {
        rest = behind;
        let place = match word.as_str() {
            "login" => &mut user,
            "password" => &mut password,
            _ => continue,
        };
        let (value, behind) = next_word(rest)?;
        rest = behind;
        place.get_or_insert(value);
    }
    Some(Login { user: user?, password: password? })
}

/// The login in a file that a server has made.
pub fn read_login(path: &Path) -> io::Result<Login> {
    let text = fs::read_to_string(path)?;
    read_netrc(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn passwords_are_made_once_and_are_the_users_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = Logins::open(directory.path(), Vec::new()).unwrap();
        let second = Logins::open(directory.path(), Vec::new()).unwrap();
        assert_eq!(first.own.password, second.own.password);
        assert_eq!(first.readers[0].user, "reader");
        assert_ne!(first.own.password, first.readers[0].password);
        for file in [Logins::own_file(directory.path()), Logins::reader_file(directory.path())] {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        assert!(read_login(&Logins::reader_file(directory.path())).unwrap() == first.readers[0]);
    }

    #[test]
    fn configured_readers_come_beside_reader_or_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let login = |user: &str| Login { user: user.to_string(), password: "given".to_string() };
        let logins = Logins::open(directory.path(), vec![login("bi"), login("reader")]).unwrap();
        let users: Vec<&str> = logins.readers.iter().map(|login| login.user.as_str()).collect();
        assert_eq!(users, ["reader", "bi"]);
        assert_eq!(logins.readers[0].password, "given");
    }

    #[test]
    fn the_file_of_reader_has_a_configured_password_in_place_of_the_random_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = Logins::reader_file(directory.path());
        Logins::open(directory.path(), Vec::new()).unwrap();
        for password in ["given", "with a space", "\"quoted\" \\ and # more", "tab\tand\nline"] {
            let login = Login { user: "reader".to_string(), password: password.to_string() };
            Logins::open(directory.path(), vec![login.clone()]).unwrap();
            assert!(read_login(&file).unwrap() == login, "{password:?}");
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{password:?}");
        }
    }

    #[test]
    fn a_file_without_a_login_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(Logins::reader_file(directory.path()), "machine localhost").unwrap();
        let error = Logins::open(directory.path(), Vec::new()).err().unwrap().to_string();
        assert!(error.contains("reader.netrc"), "{error}");
    }
}
