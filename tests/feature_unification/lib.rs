//! See `Cargo.toml`.

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::process::Command;

    use serde_json::Value;

    /// For each direct dependency of tower-cognito, every feature that it has: compares them with
    /// the two lists in `Cargo.toml`.
    #[test]
    fn every_feature_is_turned_on_or_left_out_with_a_reason() {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let named = |name: &str| packages.iter().find(|package| package["name"] == name).unwrap();
        let names = |package: &Value| -> BTreeSet<String> {
            let all = package["dependencies"].as_array().unwrap();
            let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
            normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
        };
        let this = named("feature-unification");
        let mut expected = names(named("tower-cognito"));
        expected.insert("tower-cognito".to_owned());
        assert_eq!(names(this), expected, "the direct dependencies of tower-cognito");

        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["id"] == this["id"]).unwrap();
        let resolved: BTreeMap<_, _> = node["deps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| (dependency["name"].as_str().unwrap(), &dependency["pkg"]))
            .collect();
        let turned_on = this["features"]["everything"].as_array().unwrap();
        let turned_on = turned_on.iter().filter_map(Value::as_str).collect::<BTreeSet<&str>>();
        let mut count = 0;
        for name in expected.iter().filter(|name| *name != "tower-cognito") {
            let id = resolved[&*name.replace('-', "_")];
            let package = packages.iter().find(|package| package["id"] == *id).unwrap();
            let left_out = &this["metadata"]["left-out"][name];
            for feature in package["features"].as_object().unwrap().keys() {
                let is_on =
                    feature == "default" || turned_on.contains(&*format!("{name}/{feature}"));
                let has_reason = left_out[feature].as_str().is_some_and(|reason| reason.len() > 7);
                assert!(is_on != has_reason, "{name}/{feature} belongs in exactly one list");
                count += 1;
            }
        }
        assert!(count > 100, "{count} features");
    }

    #[cfg(feature = "everything")]
    #[test]
    fn h048_features_of_serde_json_are_on() {
        // arbitrary_precision: the text of a number is kept. float_roundtrip has no effect next to it.
        let number: Value =
            serde_json::from_str("1.00000000000000000000000000000000001e+5").unwrap();
        assert_eq!(number.to_string(), "1.00000000000000000000000000000000001e+5");
        // preserve_order: the order is not that of the alphabet.
        let object: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(object.to_string(), r#"{"b":1,"a":2}"#);
        // unbounded_depth: the method does not exist without it.
        let mut deep = serde_json::Deserializer::from_str("1");
        deep.disable_recursion_limit();
    }

    #[cfg(feature = "everything")]
    #[test]
    fn h048_jsonwebtoken_has_two_providers_and_so_no_default() {
        let _: &jsonwebtoken::crypto::CryptoProvider =
            &jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
        let _: &jsonwebtoken::crypto::CryptoProvider =
            &jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
        let header = jsonwebtoken::Header::default();
        let key = jsonwebtoken::EncodingKey::from_secret(b"secret").unwrap();
        let claims = serde_json::json!({});
        let encoded = std::panic::catch_unwind(|| jsonwebtoken::encode(&header, &claims, &key));
        assert!(encoded.is_err());
    }
}
