//! That this build is what it is meant to be: everything on, and otherwise the package.

use std::collections::BTreeSet;

use serde_json::Value;
use toml::{Table, Value as Toml};

#[test]
fn h048_the_features_of_serde_json_are_on() {
    // arbitrary_precision: the text of a number is kept. float_roundtrip has no effect beside it.
    let number: Value = serde_json::from_str("1.00000000000000000000000000000000001e+5").unwrap();
    assert_eq!(number.to_string(), "1.00000000000000000000000000000000001e+5");
    // preserve_order: not that of the alphabet.
    let object: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
    assert_eq!(object.to_string(), r#"{"b":1,"a":2}"#);
    // unbounded_depth: the method is not there without it.
    let mut deep = serde_json::Deserializer::from_str("1");
    deep.disable_recursion_limit();
}

#[test]
fn h048_jsonwebtoken_has_two_providers_and_so_no_default() {
    let _: &jsonwebtoken::crypto::CryptoProvider =
        &jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
    let _: &jsonwebtoken::crypto::CryptoProvider = &jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
    let header = jsonwebtoken::Header::default();
    let key = jsonwebtoken::EncodingKey::from_secret(b"secret");
    let encoded = std::panic::catch_unwind(|| jsonwebtoken::encode(&header, &Table::new(), &key));
    assert!(encoded.is_err());
}

#[test]
fn h048_the_dependencies_are_those_of_the_package() {
    let package: Table = include_str!("../../Cargo.toml").parse().unwrap();
    let unified: Table = include_str!("Cargo.toml").parse().unwrap();
    for kind in ["dependencies", "dev-dependencies"] {
        let (theirs, ours) = (table(&package[kind]), table(&unified[kind]));
        let names = |table: &Table| table.keys().cloned().collect::<BTreeSet<_>>();
        let mut expected = names(theirs);
        expected.remove("tower-cognito");
        assert_eq!(names(ours), expected, "{kind}");
        for name in expected {
            let (theirs, ours) = (&theirs[&name], &ours[&name]);
            assert_eq!(version(ours), version(theirs), "{name}");
            assert!(features(ours).is_superset(&features(theirs)), "{name}");
        }
    }
    let features = |manifest: &Table| -> BTreeSet<String> {
        table(&manifest["features"]).keys().cloned().collect()
    };
    assert_eq!(features(&unified), features(&package));
}

fn table(value: &Toml) -> &Table {
    value.as_table().unwrap()
}

fn version(dependency: &Toml) -> &str {
    dependency.get("version").unwrap_or(dependency).as_str().unwrap()
}

fn features(dependency: &Toml) -> BTreeSet<&str> {
    let features = dependency.get("features").and_then(Toml::as_array).into_iter().flatten();
    let default = dependency.get("default-features").is_none_or(|on| on.as_bool().unwrap());
    features.map(|name| name.as_str().unwrap()).chain(default.then_some("default")).collect()
}
