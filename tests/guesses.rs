//! What somebody writes who has seen Larder for a minute. Each file in `tests/guesses` is such a guess:
//! it compiles, or the compiler's message says what to write instead.
//!
//! A file begins with `// compiles`, or with lines of `// says: …`, each of which the errors must contain.
//! They are texts of our own attributes (`#[diagnostic::on_unimplemented]`), or phrases of rustc's that
//! have been the same for years. Whole messages, as `trybuild` compares them, differ from one compiler to
//! the next, and between two builds of the same sources with other features.
//!
//! One `cargo check` compiles all of them, in the target directory of this test, so that crates which are
//! there already are not compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MANIFEST: &str = r#"
[package]
name = "guesses"
edition = "2024"

[workspace]

[dependencies]
larder = { path = "LARDER" }
deadpool-postgres = "0.14"
serde = "1"
tokio = { version = "1", features = ["rt"] }
tokio-postgres = "0.7"

[profile.dev]
debug = "line-tables-only"

[profile.dev.package."*"]
debug = false
"#;

/// What stands for a web framework, and for a sqlx that is in the build without Larder's feature.
const LIBRARY: &str = "
pub struct Json<T: serde::Serialize>(pub T);

pub mod sqlx {
    #[derive(Clone)]
    pub struct Pool<DB>(std::marker::PhantomData<DB>);
    #[derive(Clone)]
    pub struct Postgres;
    pub type PgPool = Pool<Postgres>;
}
";

struct Guess {
    name: String,
    path: PathBuf,
    /// What its errors must contain; nothing if it compiles.
    says: Vec<String>,
}

fn guesses() -> Vec<Guess> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guesses");
    let mut all = vec![];
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let heading: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let says = heading.iter().filter_map(|line| line.strip_prefix("// says: "));
        let says: Vec<String> = says.map(str::to_owned).collect();
        let compiles = heading == ["// compiles"];
        assert!(
            compiles || (!says.is_empty() && says.len() == heading.len()),
            "{name}: its heading"
        );
        all.push(Guess { name, path, says });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Writes a file, and leaves it alone if it is the same: another run may be compiling it. Returns whether
/// it was another one.
fn put(path: &Path, text: &str) -> bool {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return false;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension(std::process::id().to_string());
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
    true
}

/// A package with each guess as an example, which needs no `main` as a library.
fn package(guesses: &[Guess]) -> PathBuf {
    let (root, temporary) = (env!("CARGO_MANIFEST_DIR"), env!("CARGO_TARGET_TMPDIR"));
    let directory = Path::new(temporary).join("guesses");
    let mut manifest = MANIFEST.replace("LARDER", root);
    for Guess { name, path, .. } in guesses {
        let path = path.display();
        manifest +=
            &format!("\n[[example]]\nname = {name:?}\npath = \"{path}\"\ncrate-type = [\"lib\"]\n");
    }
    put(&directory.join("Cargo.toml"), &manifest);
    put(&directory.join("src/lib.rs"), LIBRARY);
    // The versions of this build, which are on this machine. Cargo takes out of them what is not needed.
    let versions = fs::read_to_string(Path::new(root).join("Cargo.lock")).unwrap();
    if put(&directory.join("versions.lock"), &versions) {
        put(&directory.join("Cargo.lock"), &versions);
    }
    directory
}

/// The errors of each example, as they are shown, and the examples that were compiled.
fn check(directory: &Path) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--examples", "--keep-going", "--offline", "--message-format=json"])
        .arg("--manifest-path")
        .arg(directory.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        // `-D warnings` among them would make errors of functions that nobody calls.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    let (mut errors, mut compiled) = (BTreeMap::<String, String>::new(), BTreeSet::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let Ok(told) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(name) = told["target"]["name"].as_str() else { continue };
        if told["target"]["kind"][0] != "example" {
            assert_ne!(
                told["message"]["level"], "error",
                "{name}: {}",
                told["message"]["rendered"]
            );
        } else if told["reason"] == "compiler-artifact" {
            compiled.insert(name.to_owned());
        } else if told["message"]["level"] == "error" {
            let text = told["message"]["rendered"].as_str().unwrap();
            errors.entry(name.to_owned()).or_default().push_str(text);
        }
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!compiled.is_empty(), "cargo check compiled nothing:\n{said}");
    (errors, compiled)
}

#[test]
fn a_wrong_guess_is_told_what_to_write() {
    let guesses = guesses();
    let (errors, compiled) = check(&package(&guesses));
    let mut wrong = String::new();
    for Guess { name, says, .. } in &guesses {
        let told = errors.get(name).map_or("", String::as_str);
        if says.is_empty() {
            if !compiled.contains(name) {
                wrong += &format!("`{name}` does not compile:\n{told}\n");
            }
            continue;
        }
        if compiled.contains(name) {
            wrong += &format!("`{name}` compiles: say so in its heading\n");
        }
        for text in says.iter().filter(|text| !told.contains(*text)) {
            wrong += &format!("`{name}` is not told: {text}\n{told}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
