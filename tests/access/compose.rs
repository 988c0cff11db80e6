//! The secrets of `docker-compose.yml`: passwords by `make env`, tokens by `deploy/tokens.sh`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(script: &str, argument: &Path, data: &Path) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_heliostat"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let mut command = Command::new(script);
    command.arg(argument).env("PATH", path).env("HELIOSTAT_DATA_DIR", data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn passwords_are_random_for_their_user_alone_and_never_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let write = |name: &str| {
        let file = directory.path().join(name);
        run("scripts/env.sh", &file, &data);
        (std::fs::read_to_string(&file).unwrap(), file)
    };
    let ((first, file), (second, _)) = (write("a"), write("b"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let passwords = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_once('=').unwrap().1.to_string()).collect()
    };
    let mut all = [passwords(&first), passwords(&second)].concat();
    assert!(all.iter().all(|password| password.len() == 48), "{all:?}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6, "{first}{second}");
    assert_eq!(write("a").0, first);

    // Whatever compose needs is in the file.
    let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
    let compose = std::fs::read_to_string(compose).unwrap();
    for part in compose.split("${").skip(1) {
        let (name, rest) = part.split_once(':').unwrap();
        assert!(rest.starts_with("?make env"), "{name} has a default");
        assert!(first.contains(&format!("{name}=")), "{name}");
    }
}

#[test]
fn tokens_of_services_are_made_once_and_anew_where_a_file_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (data, tokens) = (directory.path().join("data"), directory.path().join("tokens"));
    std::fs::create_dir(&tokens).unwrap();
    let make = || {
        run("deploy/tokens.sh", &tokens, &data);
        ["sample", "prometheus"].map(|name| std::fs::read_to_string(tokens.join(name)).unwrap())
    };
    let first = make();
    assert!(first.iter().all(|token| token.starts_with("hst_")), "{first:?}");
    assert_eq!(make(), first);
    std::fs::remove_file(tokens.join("sample")).unwrap();
    let again = make();
    assert!(again[0] != first[0] && again[1] == first[1]);
    let listed = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["token", "list", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains("sample: role write") && listed.contains("prometheus: role read"));
}
