//! The structure of the source: which file may use which, which file may name what, and the form of
//! public documentation. `src/docs/design.md` has the map for readers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files and folders of `src`, in layers. A file may use only the layers above its own; the
/// files of a folder may also use each other.
const LAYERS: [&str; 13] = [
    "background base64url docs json path random schedule scope",
    "error",
    "health jws url",
    "jwks rejection resource_metadata",
    "claims fetch",
    "user_pool",
    "verify",
    "scope_table telemetry token_cache",
    "refresh",
    "verifier",
    "layer",
    "config extract interceptor",
    "lib test_issuer",
];

/// Words of code, and the only files or folders that may contain them.
const ONLY_IN: [(&str, &[&str]); 5] = [
    ("aws_lc_rs", &["jwks", "random", "test_issuer/signer"]),
    ("jsonwebtoken", &["jwks"]),
    ("SystemTime::now", &["test_issuer/token", "verifier/builder"]),
    ("tokio::", &["background", "refresh", "test_issuer/server"]),
    ("AccessToken {", &["verify/access_token"]),
];

/// The files that differ between builds. None of them decides whether a token is accepted.
const MAY_HAVE_CFG: [&str; 8] =
    ["base64url", "fetch", "layer", "lib", "refresh/file", "telemetry", "url", "verifier/builder"];

/// The first part of a file's name: its folder, or itself.
fn top(name: &str) -> &str {
    name.split('/').next().unwrap()
}

fn is_in(name: &str, files: &[&str]) -> bool {
    files.iter().any(|file| {
        name.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[test]
fn files_use_only_the_layers_above() {
    let layer = |name: &str| LAYERS.iter().position(|line| line.split(' ').any(|is| is == name));
    let mut wrong = Vec::new();
    for (name, code) in sources() {
        let folder = top(&name);
        let Some(own) = layer(folder) else {
            wrong.push(format!("src/{name}.rs: add `{folder}` to the line below all that it uses"));
            continue;
        };
        for used in imports(&code) {
            let is_allowed = match layer(used) {
                Some(used_layer) => used_layer < own || used == folder,
                // Items of the crate root: the public API.
                None => folder == "test_issuer",
            };
            if !is_allowed {
                wrong.push(format!(
                    "src/{name}.rs: remove the use of `crate::{used}`, or move `{folder}` below it"
                ));
            }
        }
        // Paths to another folder begin with `crate::`, so that the check above sees them.
        let leaves = if name.contains('/') { "super::super::" } else { "\nuse super::" };
        if code.contains(leaves) {
            wrong.push(format!("src/{name}.rs: write `crate::` instead of `{}`", leaves.trim()));
        }
    }
    assert!(wrong.is_empty(), "see LAYERS in tests/it/architecture.rs:\n{}", wrong.join("\n"));
}

#[test]
fn cryptography_clock_and_runtime_have_one_place_each() {
    let mut wrong = Vec::new();
    for (name, code) in sources() {
        // The definition and the methods of a type do not construct it.
        let code = code.replace("struct AccessToken {", "").replace("for AccessToken {", "");
        let code = code.replace("impl AccessToken {", "");
        for (word, files) in ONLY_IN {
            if code.contains(word) && !is_in(&name, files) {
                wrong.push(format!("src/{name}.rs contains `{word}`; only {files:?} may"));
            }
        }
    }
    assert!(wrong.is_empty(), "see ONLY_IN in tests/it/architecture.rs:\n{}", wrong.join("\n"));
    let sources = sources();
    let with_keys =
        sources.iter().filter(|(name, code)| top(name) == "jwks" && code.contains("aws_lc_rs"));
    let with_keys = with_keys.map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(with_keys.len(), 1, "cryptography belongs in one file: {with_keys:?}");
}

#[test]
fn access_token_is_constructed_in_one_place() {
    let token = &sources()["verify/access_token"];
    // Visible only in its folder, whose files are all read below.
    let body = token.split_once("pub(super) fn new(\n        claims: Claims").unwrap().1;
    assert!(body.contains("        Self {\n            inner: Arc::new(Verified {\n"));
    // A second `Self {` would construct another one.
    let implementation = token.split_once("impl AccessToken {").unwrap().1;
    let implementation = implementation.split_once("\n}\n").unwrap().0;
    let constructed = implementation.replace("-> Self {", "").matches("Self {").count();
    assert_eq!(constructed, 1);
    let calls = |file: &str| sources()[file].matches("AccessToken::new(").count();
    assert_eq!(["verify", "verify/access_token", "verify/rules"].map(calls), [1, 0, 0]);
}

#[test]
fn unsafe_code_is_forbidden_and_no_feature_weakens_a_check() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
    for (name, code) in sources() {
        // `only_fuzzing_skips_the_signature_check` covers this one.
        let code = code.replace("cfg!(all(tower_cognito_fuzz, debug_assertions))", "");
        let code = code.replace("#[cfg_attr(test, derive(Debug))]", "").replace("#[cfg(test)]", "");
        for switch in ["cfg(", "cfg!(", "cfg_attr(", "cfg_select!"] {
            assert!(
                MAY_HAVE_CFG.contains(&&*name) || !code.contains(switch),
                "src/{name}.rs must be the same under every feature: remove `{switch}`"
            );
        }
    }
}

#[test]
fn only_fuzzing_skips_the_signature_check() {
    let named = |text: &str| text.to_lowercase().matches("fuzz").count();
    let mut found = Vec::new();
    for (name, code) in sources() {
        if named(&code) > 0 {
            assert_eq!(named(&code), 1, "src/{name}.rs names it once");
            assert_eq!(top(&name), "jwks", "src/{name}.rs must not depend on fuzzing");
            assert!(code.contains(
                "        if cfg!(all(tower_cognito_fuzz, debug_assertions)) {\n            return self.numbers.exponent == [3];"
            ));
            found.push(name);
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");

    // It is not a feature, so that no dependent can turn it on, and there is no build script.
    let mut count = 0;
    for path in manifests(root()) {
        let text = fs::read_to_string(&path).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let features = manifest.get("features").and_then(toml::Value::as_table);
        let features = features.into_iter().flat_map(toml::Table::keys);
        for feature in features {
            assert_eq!(named(feature), 0, "{}: {feature}", path.display());
        }
        assert!(!path.with_file_name("build.rs").exists(), "{}", path.display());
        let package = manifest.get("package").and_then(toml::Value::as_table);
        assert!(
            package.is_some_and(|package| !package.contains_key("build")),
            "{}",
            path.display()
        );
        count += 1;
    }
    assert!(count > 0, "the manifests were not found");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let declared = &manifest["lints"]["rust"]["unexpected_cfgs"]["check-cfg"];
    let declared = declared.as_array().unwrap().iter().map(toml::Value::as_str);
    assert_eq!(declared.collect::<Vec<_>>(), [Some("cfg(tower_cognito_fuzz)")]);
    assert_eq!(format!("{manifest:?}").matches("tower_cognito_fuzz").count(), 1);
    for config in [".cargo/config.toml", ".cargo/config"] {
        let text = fs::read_to_string(root().join(config)).unwrap_or_default();
        assert_eq!(named(&text), 0, "{config}");
    }
}

#[test]
fn every_dependency_is_used() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let code = |folders: &[&str]| {
        let files = folders.iter().flat_map(|folder| files_below(folder));
        let files = files.filter(|path| is_rust(path));
        files.map(|path| fs::read_to_string(path).unwrap()).collect::<String>()
    };
    for (table, folders) in
        [("dependencies", &["src"][..]), ("dev-dependencies", &["examples", "src", "tests"])]
    {
        let code = code(folders);
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        let words = words.collect::<std::collections::BTreeSet<_>>();
        for name in manifest[table].as_table().unwrap().keys() {
            assert!(words.contains(&*name.replace('-', "_")), "{table}: {name}");
        }
    }
}

/// Returns the path of every `Cargo.toml` in the repository.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(manifests(&path));
        } else if name == "Cargo.toml" {
            found.push(path);
        }
    }
    found
}

/// Returns the top folder of the repository.
pub(crate) fn root() -> &'static Path {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("src/lib.rs").exists()).unwrap()
}

/// Returns every file below a folder.
pub(crate) fn files_below(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

pub(crate) fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Returns the code of every file in `src` by its name, without comments and tests. The name of
/// `layer/mod.rs` is `layer`.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        if ["tests", "wycheproof", "wycheproof_files"]
            .contains(&path.file_stem().unwrap().to_str().unwrap())
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code
            .lines()
            .map(|line| {
                // The slashes of a URL do not begin a comment.
                let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
                comment.map_or(line, |(at, _)| &line[..at])
            })
            .collect::<Vec<_>>()
            .join("\n");
        let name = path.strip_prefix(root().join("src")).unwrap().with_extension("");
        let name = name.to_str().unwrap().replace('\\', "/").replace("/mod", "");
        sources.insert(name, code);
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

/// Returns the first segment of every path that begins with `crate::`, including `use crate::{…}`.
fn imports(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let end = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_');
        match rest.strip_prefix('{') {
            None => found.push(&rest[..end(rest).unwrap_or(rest.len())]),
            Some(list) => {
                let list = &list[..list.find("};").unwrap_or(list.len())];
                let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
                found.extend(items.map(|item| &item[..end(item).unwrap_or(item.len())]));
            }
        }
    }
    found
}

/// The first words of functions' documentation, as in "Returns the claims."
const VERBS: &str = "Accepts Adds Admits Allows Appends Applies Authorizes Builds Calls Cancels \
    Checks Chooses Clears Closes Configures Connects Contains Converts Copies Counts Creates \
    Decides Decodes Describes Deserializes Determines Disables Enables Ends Excludes Extracts \
    Fetches Forgets Formats Generates Gives Handles Holds Identifies Ignores Includes Inserts \
    Keeps Limits Lists Loads Logs Makes Maps Marks Opens Overrides Parses Prevents Protects \
    Provides Publishes Reads Records Refreshes Rejects Releases Removes Replaces Reports \
    Represents Requests Requires Resolves Responds Restricts Retires Returns Rotates Selects \
    Sends Serves Sets Shares Shuts Signs Skips Starts Stops Stores Supplies Treats Tries Trusts \
    Uses Verifies Waits Wraps Writes";

/// What types' documentation may also begin with.
const ARTICLES: &str = "A An The";

/// The kinds of the public items whose documentation is checked.
const ITEMS: [&str; 8] =
    ["async fn ", "const fn ", "const ", "enum ", "fn ", "struct ", "trait ", "type "];

#[test]
fn public_documentation_has_the_usual_form() {
    let is_one_of = |word: &str, words: &str| words.split_whitespace().any(|one| one == word);
    let mut count = 0;
    let mut wrong = Vec::new();
    for (file, line, item, doc) in public_documentation() {
        count += 1;
        let is_function = item.contains("fn ");
        let mut complain = |what: String| wrong.push(format!("{file}:{line}: `{item}`: {what}"));
        let first = doc.split("\n\n").next().unwrap().trim();
        let word = first.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        if is_function && !is_one_of(word, VERBS) {
            complain(format!("begin with a verb of VERBS, not with `{word}`"));
        } else if !is_function && !is_one_of(word, VERBS) && !is_one_of(word, ARTICLES) {
            complain(format!("begin with a verb of VERBS or an article, not with `{word}`"));
        }
        if !first.ends_with(['.', ':']) {
            complain("end the first paragraph with a full stop".to_owned());
        }
        for (heading, beginning) in [("# Errors", "Returns an error if"), ("# Panics", "Panics if")]
        {
            let section = doc.split_once(&format!("{heading}\n")).map(|(_, section)| section);
            if section.is_some_and(|section| !section.trim_start().starts_with(beginning)) {
                complain(format!("begin `{heading}` with \"{beginning}\""));
            }
        }
    }
    assert!(count > 100, "the items were not found: {count}");
    assert!(wrong.is_empty(), "{} of {count} items:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns the file, line, declaration and documentation of each public item, and of the functions
/// of public traits. Items without documentation are the compiler's business (`missing_docs`).
fn public_documentation() -> Vec<(String, usize, String, String)> {
    let mut found = Vec::new();
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        let text = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        let mut doc = String::new();
        let (mut attribute, mut is_in_trait) = (0, false);
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if let Some(comment) = code.strip_prefix("///") {
                doc.push_str(comment.strip_prefix(' ').unwrap_or(comment));
                doc.push('\n');
                continue;
            }
            if attribute > 0 || code.starts_with("#[") {
                attribute += code.matches('[').count();
                attribute -= code.matches(']').count();
                continue;
            }
            let declared = code.strip_prefix("pub ").or(is_in_trait.then_some(code));
            let is_item = |code: &&str| ITEMS.iter().any(|item| code.starts_with(item));
            if let Some(item) = declared.filter(is_item).filter(|_| !doc.is_empty()) {
                let end = item.find(['(', '{', '<', '=', ';', ':']).unwrap_or(item.len());
                let item = item[..end].trim().to_owned();
                found.push((file.clone(), number + 1, item, doc.clone()));
            }
            is_in_trait = line.starts_with("pub trait ") || is_in_trait && line != "}";
            doc.clear();
        }
    }
    found
}

#[test]
fn every_public_item_is_used_in_an_example() {
    let examples = example_code();
    let words = examples.split(|c: char| !c.is_alphanumeric() && c != '_');
    let words = words.collect::<std::collections::BTreeSet<_>>();
    let mut missing = Vec::new();
    for (file, code) in sources() {
        for line in code.lines() {
            let line = line.trim_start();
            let item = ["pub async fn ", "pub fn ", "pub struct ", "pub enum ", "pub trait "];
            let Some(rest) = item.iter().find_map(|item| line.strip_prefix(item)) else {
                continue;
            };
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            if !words.contains(name) && !NEVER_NAMED.contains(&name) {
                missing.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "not used in any example or doc test: {missing:#?}");
}

/// Types that an application uses without writing their names.
const NEVER_NAMED: [&str; 6] = [
    "RequireGroupService",
    "RequireScopeService",
    "RequireTokenService",
    "ResponseBody",
    "ResponseFuture",
    "ScopesIter",
];

#[test]
fn public_items_have_one_path() {
    let listing = fs::read_to_string(root().join("tests/public-api.txt")).unwrap();
    let mut paths = BTreeMap::<&str, Vec<&str>>::new();
    for line in listing.lines() {
        let item = line.split("pub ").nth(1).unwrap_or_default();
        let Some(("enum" | "struct" | "trait", item)) = item.split_once(' ') else { continue };
        let end = item.find(['<', '(']).or(item.find(": ")).unwrap_or(item.len());
        let path = &item[..end];
        paths.entry(path.rsplit("::").next().unwrap()).or_default().push(path);
    }
    assert!(paths.len() > 20, "{paths:?}");
    paths.retain(|_, paths| paths.len() > 1);
    assert!(paths.is_empty(), "several public paths: {paths:?}");
}

/// Returns the code of the examples and of the documentation.
fn example_code() -> String {
    let examples = files_below("examples").into_iter().filter(|path| is_rust(path));
    let mut code = examples.map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    for path in files_below("src") {
        let is_markdown = !is_rust(&path);
        let mut is_code = false;
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line = line.trim_start();
            let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            let Some(doc) = doc.or(is_markdown.then_some(line)) else {
                continue;
            };
            if doc.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if is_code {
                code.push_str(doc);
                code.push('\n');
            }
        }
    }
    code
}
