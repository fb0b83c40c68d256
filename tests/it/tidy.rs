//! What a program can check of the house rules: which file may import which, and who alone may
//! name what. The map for readers is in `src/docs/design.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each file of `src`, and the files whose items it may use.
const MAY_USE: [(&str, &[&str]); 45] = [
    ("base64url", &[]),
    ("claims", &["error", "json", "jwks"]),
    ("config", &["error", "layer", "scope", "user_pool", "verifier", "verify"]),
    ("docs", &[]),
    ("error", &[]),
    ("extract", &["layer", "rejection", "telemetry", "verify"]),
    ("fetch", &["error", "jwks", "url"]),
    ("health", &[]),
    ("interceptor", &["layer", "rejection", "telemetry", "verifier", "verify"]),
    ("json", &[]),
    ("jwks", &["error", "json", "jws"]),
    ("jwks/key", &["json", "jws"]),
    ("jwks/key_set", &[]),
    ("jwks/wycheproof", &["error", "jws"]),
    ("jws", &["base64url", "error", "json"]),
    ("layer", &["layer"]),
    ("layer/bearer", &[]),
    ("layer/protocol", &[]),
    ("layer/require_scope", &["error", "layer", "rejection", "scope", "telemetry", "verify"]),
    (
        "layer/require_token",
        &[
            "error",
            "layer",
            "rejection",
            "resource_metadata",
            "scope_table",
            "telemetry",
            "verifier",
            "verify",
        ],
    ),
    ("layer/response", &["rejection", "telemetry"]),
    ("lib", &[]),
    ("path", &[]),
    ("refresh", &["error", "fetch", "health", "jwks", "schedule", "telemetry"]),
    ("refresh/background", &[]),
    ("refresh/file", &["error", "fetch", "jwks"]),
    ("refresh/shared", &["error", "jwks"]),
    ("refresh/task", &["error", "fetch", "jwks", "schedule", "telemetry"]),
    ("rejection", &["error", "scope"]),
    ("rejection/body", &[]),
    ("rejection/config", &[]),
    ("resource_metadata", &["error", "scope", "url"]),
    ("schedule", &[]),
    ("scope", &["error"]),
    ("scope_table", &["error", "path", "scope"]),
    ("telemetry", &["error", "jwks", "url", "verify"]),
    ("test_issuer", &["the public API"]),
    ("token_cache", &["jwks", "verify"]),
    ("url", &["error"]),
    ("user_pool", &["error", "url"]),
    ("verifier", &["error", "health", "refresh", "telemetry", "token_cache", "url", "verify"]),
    ("verifier/builder", &["error", "fetch", "jwks", "refresh", "schedule", "verify"]),
    ("verify", &["claims", "error", "jwks", "jws"]),
    ("verify/access_token", &["claims", "error", "scope", "verify"]),
    ("verify/rules", &["claims", "error", "user_pool"]),
    ("test_issuer/*", &["the public API"]),
];

/// Words, and the only files that may say them.
const ONLY_IN: [(&str, &[&str]); 11] = [
    ("aws_lc_rs", &["jwks/key", "test_issuer/signer"]),
    ("axum_core", &["extract"]),
    ("http_body", &["layer/response"]),
    ("jsonwebtoken", &["jwks/key"]),
    ("metrics::", &["telemetry"]),
    ("reqwest::", &["fetch", "verifier/builder"]),
    ("SystemTime::now", &["test_issuer/token", "verifier/builder"]),
    (
        "tokio::",
        &[
            "refresh",
            "refresh/background",
            "refresh/file",
            "refresh/shared",
            "refresh/task",
            "test_issuer/server",
        ],
    ),
    ("tonic::", &["interceptor"]),
    ("tower_layer", &["layer/require_scope", "layer/require_token"]),
    ("AccessToken {", &["verify/access_token"]),
];

/// May name `http`.
const HTTP: [&str; 12] = [
    "extract",
    "fetch",
    "layer/bearer",
    "layer/protocol",
    "layer/require_scope",
    "layer/require_token",
    "layer/response",
    "rejection",
    "rejection/body",
    "resource_metadata",
    "test_issuer/server",
    "url",
];

#[test]
fn imports_point_one_way() {
    let allowed: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    for (name, code) in sources() {
        let entry = if name.starts_with("test_issuer/") { "test_issuer/*" } else { &name };
        let Some(may_use) = allowed.get(entry) else {
            panic!("src/{name}.rs has no line in MAY_USE: say what it may use");
        };
        for used in imports(&code) {
            let used = if used.starts_with(char::is_uppercase) { "the public API" } else { used };
            let from_layer = name.starts_with("layer/") && used == "layer";
            assert!(
                from_layer || may_use.contains(&used),
                "src/{name}.rs uses `{used}`, and may use {may_use:?}"
            );
        }
    }
}

#[test]
fn the_map_of_imports_has_no_cycle() {
    let mut left: BTreeMap<&str, Vec<&str>> = MAY_USE
        .into_iter()
        .filter(|(name, _)| !name.contains('/'))
        .map(|(name, uses)| (name, uses.iter().copied().filter(|used| *used != name).collect()))
        .collect();
    left.remove("test_issuer");
    while let Some(leaf) = left.iter().find(|(_, uses)| uses.is_empty()).map(|(name, _)| *name) {
        left.remove(leaf);
        left.values_mut().for_each(|uses| uses.retain(|used| *used != leaf));
    }
    assert!(left.is_empty(), "these use each other: {left:?}");
}

#[test]
fn each_foreign_crate_has_its_room() {
    for (name, code) in sources() {
        for (word, files) in ONLY_IN {
            let may = files.contains(&&*name);
            // A type's own definition and methods are not its construction.
            let code = code.replace("struct AccessToken {", "").replace("for AccessToken {", "");
            let code = code.replace("impl AccessToken {", "");
            assert!(may || !code.contains(word), "src/{name}.rs says `{word}`: {files:?} may");
        }
        let says_http = code.contains("use http::") || code.contains(" http::");
        assert!(!says_http || HTTP.contains(&&*name), "src/{name}.rs names `http`");
    }
}

#[test]
fn an_access_token_is_made_in_one_place() {
    let token = &sources()["verify/access_token"];
    // For the folder alone, whose files are all read below.
    let body = token.split_once("pub(super) fn new(claims: Claims").unwrap().1;
    assert!(body.contains("        Self {\n            inner: Arc::new(Verified {\n"));
    // `Self {` beside the one in `new` would make another.
    let implementation = token.split_once("impl AccessToken {").unwrap().1;
    let implementation = implementation.split_once("\n}\n").unwrap().0;
    let made = implementation.replace("-> Self {", "").matches("Self {").count();
    assert_eq!(made, 1);
    let calls = |file: &str| sources()[file].matches("AccessToken::new(").count();
    assert_eq!(["verify", "verify/access_token", "verify/rules"].map(calls), [1, 0, 0]);
}

#[test]
fn unsafe_code_is_forbidden_and_no_feature_weakens_a_check() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"));
    for name in [
        "claims",
        "json",
        "jwks",
        "jwks/key",
        "jwks/key_set",
        "jws",
        "layer/bearer",
        "layer/protocol",
        "layer/require_scope",
        "layer/require_token",
        "layer/response",
        "path",
        "rejection",
        "rejection/body",
        "rejection/config",
        "scope",
        "scope_table",
        "token_cache",
        "user_pool",
        "verifier",
        "verify",
        "verify/access_token",
        "verify/rules",
    ] {
        // What `the_signature_check_is_left_out_for_fuzzing_alone` watches.
        let code = &sources()[name].replace("cfg!(tower_cognito_fuzz)", "");
        let code = code.replace("#[cfg_attr(test, derive(Debug))]", "");
        for switch in ["cfg(", "cfg!(", "cfg_attr(", "cfg_select!"] {
            assert!(!code.contains(switch), "src/{name}.rs is the same under every feature");
        }
    }
}

#[test]
fn the_signature_check_is_left_out_for_fuzzing_alone() {
    let named = |text: &str| text.to_lowercase().matches("fuzz").count();
    for (name, code) in sources() {
        let expected = usize::from(name == "jwks/key");
        assert_eq!(named(&code), expected, "src/{name}.rs");
    }
    let key = &sources()["jwks/key"];
    let body = key.split_once("fn verifies(&self").unwrap().1.split_once("\n    }\n").unwrap().0;
    assert!(
        body.contains("if cfg!(tower_cognito_fuzz) {\n            return self.exponent == [3];")
    );

    // No feature, so that nothing which depends on the crate can turn it on, and no build script.
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
fn each_dependency_is_used() {
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

/// Every `Cargo.toml` of the repository.
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

/// Every file below this folder.
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

/// Every file of `src` by its name, without comments and without its tests.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for path in files_below("src").into_iter().filter(|path| is_rust(path)) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let code = code
            .lines()
            .map(|line| {
                // Not at that of a URL.
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

/// The first segment of every path that begins with `crate::`, also in a nested `use crate::{…}`.
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

#[test]
fn each_public_item_is_used_in_an_example_that_runs() {
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
            if !words.contains(name) && !NAMED_BY_NOBODY.contains(&name) {
                missing.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "without an example: {missing:#?}");
}

/// Types that an application gets without writing their names.
const NAMED_BY_NOBODY: [&str; 5] =
    ["RequireScopeService", "RequireTokenService", "ResponseBody", "ResponseFuture", "ScopesIter"];

/// The code in the documentation, and the examples.
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
